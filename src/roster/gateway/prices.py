"""What a call costs: from real usage, at most (for reservations), and roughly (for estimates). Billionths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from roster.gateway.config import Price

CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly; used only where an upstream does not count."""
TYPICAL_ANSWER = 256
"""Tokens that an estimate takes an answer to have."""
TEMPLATE_TOKENS = 64
"""More than a chat template adds around a request, per message."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one call.

    Attributes:
        prompt: tokens read.
        completion: tokens written.
        estimated: whether the upstream did not say, so that this is a guess.
    """

    prompt: int
    completion: int
    estimated: bool = False

    def body(self) -> dict[str, int]:
        """OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


NO_USAGE = Usage(0, 0, estimated=True)
"""Of a call that brought nothing."""


def read_usage(given: Any) -> Usage | None:
    """An upstream's usage object; None where it is missing or is not two counts."""
    if not isinstance(given, dict):
        return None
    counts = [given.get("prompt_tokens"), given.get("completion_tokens")]
    if not all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 2**40 for each in counts):
        return None
    return Usage(*counts)


def guess_tokens(text: str) -> int:
    """Tokens of a text whose tokenizer is not known."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def cost(price: Price, usage: Usage) -> int:
    """What a call cost; prices per million tokens are thousands of billionths per token."""
    return math.ceil((price.input * usage.prompt + price.output * usage.completion) * 1000)


def most(price: Price, request_bytes: int, messages: int, max_output: int, answers: int) -> int:
    """The most that a call can cost, for text.

    Args:
        price: of the model.
        request_bytes: of the request's body; a token of text is at least one byte.
        messages: in the request.
        max_output: tokens of one answer.
        answers: that were asked for.
    """
    return cost(price, Usage(request_bytes + TEMPLATE_TOKENS * (messages + 1), max_output * answers))


def estimate(price: Price, prompt: str, max_output: int | None) -> float:
    """What a call will cost, roughly, in the currency."""
    answer = TYPICAL_ANSWER if max_output is None else min(TYPICAL_ANSWER, max_output)
    return cost(price, Usage(guess_tokens(prompt), answer)) / 1e9
