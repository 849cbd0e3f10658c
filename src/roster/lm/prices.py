"""Prices per token, and what a call costs by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from roster.errors import RosterError, nearest
from roster.lm.records import Matrix

CHARS_PER_TOKEN = 4.0
"""English text under common tokenizers; an approximation wherever token counts were not recorded."""


@dataclass(frozen=True)
class Price:
    """Price of one model, per 1M tokens read and per 1M tokens written."""

    input: float
    output: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.input, self.output]).all() and min(self.input, self.output) >= 0):
            raise RosterError(f"a price must be a number of at least 0, not {self.input} and {self.output}")


def read_prices(path: Path | str) -> dict[str, Price]:
    """Prices from a YAML or JSON file: `small: {input: 0.15, output: 0.6}` for each model, per 1M tokens.

    Raises:
        RosterError: the file cannot be read, or something in it is no price.
    """
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RosterError(f"prices {str(path)!r} cannot be read: {error}") from None
    if not isinstance(given, dict) or not given:
        raise RosterError(f"prices {str(path)!r}: a line per model is needed: `small: {{input: 1, output: 2}}`")
    prices = {}
    for model, price in given.items():
        if not isinstance(price, dict) or price.keys() != {"input", "output"}:
            raise RosterError(f"prices {str(path)!r}: {model}: an `input` and an `output` are needed, and nothing else")
        try:
            prices[str(model)] = Price(float(price["input"]), float(price["output"]))
        except (TypeError, ValueError) as error:
            raise RosterError(f"prices {str(path)!r}: {model}: {error}") from None
    return prices


def check_prices(prices: Mapping[str, Price], models: Sequence[str]) -> None:
    """Every model has a price and every price a model.

    Raises:
        RosterError: which do not match, with the nearest names.
    """
    for model in models:
        if model not in prices:
            raise RosterError(f"model {model!r} has no price: {nearest(model, prices)}")
    for name in prices:
        if name not in models:
            raise RosterError(f"there is a price for {name!r}, but no such model: {nearest(name, models)}")


def tokens(text: str) -> float:
    """About how many tokens a text has."""
    return len(text) / CHARS_PER_TOKEN


def cost_of_calls(
    prompts: Sequence[str], models: Sequence[str], prices: Mapping[str, Price], answer_tokens_NM: Matrix
) -> Matrix:
    """What each call costs, [N, M], in the currency of the prices."""
    return cost_of_tokens(np.array([tokens(prompt) for prompt in prompts]), models, prices, answer_tokens_NM)


def cost_of_tokens(
    read_N: Matrix, models: Sequence[str], prices: Mapping[str, Price], answer_tokens_NM: Matrix
) -> Matrix:
    """The same from the number of tokens of each prompt."""
    check_prices(prices, models)
    input_M = np.array([prices[model].input for model in models])
    output_M = np.array([prices[model].output for model in models])
    cost_NM: Matrix = (read_N[:, None] * input_M + answer_tokens_NM * output_M) / 1e6
    return cost_NM
