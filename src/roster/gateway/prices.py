"""What a call costs: from real usage, at most (for reservations), and roughly (for estimates). Billionths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from roster.gateway.config import Price

CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly; used only where an upstream does not count."""
TYPICAL_ANSWER = 256
"""Tokens that an estimate takes an answer to have."""

Counted = Literal["upstream", "tokenizer", "bound"]


@dataclass(frozen=True)
class Usage:
    """Tokens of one call.

    Attributes:
        prompt: tokens read.
        completion: tokens written.
        counted: by whom: the upstream, the model's tokenizer, or nobody, so that there are at most so many.
        cached: of those read, how many came from the provider's cache.
        reasoning: of those written, how many are thoughts.
        told: the upstream's own object.
    """

    prompt: int
    completion: int
    counted: Counted = "upstream"
    cached: int = 0
    reasoning: int = 0
    told: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def estimated(self) -> bool:
        """Whether the upstream did not say."""
        return self.counted != "upstream"

    def body(self) -> dict[str, Any]:
        """OpenAI's usage object: the upstream's, untouched, where it gave one."""
        if self.told is not None:
            return dict(self.told)
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


NO_USAGE = Usage(0, 0, "bound")
"""Of a call that brought nothing."""


def read_usage(given: Any) -> Usage | None:
    """An upstream's usage object; None where it is missing or is not two counts.

    Some providers leave thoughts out of `completion_tokens` and have them in the total, which is what they charge.
    """
    if not isinstance(given, dict):
        return None
    prompt, completion = _count(given.get("prompt_tokens")), _count(given.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    completion = max(completion, (_count(given.get("total_tokens")) or 0) - prompt)
    cached = (
        _detail(given, "prompt_tokens_details", "cached_tokens") or _count(given.get("prompt_cache_hit_tokens")) or 0
    )
    reasoning = _detail(given, "completion_tokens_details", "reasoning_tokens") or 0
    return Usage(prompt, completion, cached=min(cached, prompt), reasoning=min(reasoning, completion), told=given)


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**40 or value % 1:
        return None
    return int(value)


def _detail(given: dict[str, Any], details: str, name: str) -> int | None:
    inner = given.get(details)
    return _count(inner.get(name)) if isinstance(inner, dict) else None


def guess_tokens(text: str) -> int:
    """Tokens of a text whose tokenizer is not known."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def cost(price: Price, usage: Usage) -> int:
    """What a call cost; prices per million tokens are thousands of billionths per token."""
    cached = price.input if price.cached_input is None else price.cached_input
    reasoning = price.output if price.reasoning is None else price.reasoning
    read = price.input * (usage.prompt - usage.cached) + cached * usage.cached
    written = price.output * (usage.completion - usage.reasoning) + reasoning * usage.reasoning
    return math.ceil((read + written) * 1000)


def most(price: Price, prompt: int, completion: int) -> int:
    """The most that a call of so many tokens can cost, whatever sort they are of."""
    read = max(price.input, price.cached_input or 0)
    written = max(price.output, price.reasoning or 0)
    return math.ceil((read * prompt + written * completion) * 1000)


def estimate(price: Price, prompt: str, max_output: int | None) -> float:
    """What a call will cost, roughly, in the currency."""
    answer = TYPICAL_ANSWER if max_output is None else min(TYPICAL_ANSWER, max_output)
    return cost(price, Usage(guess_tokens(prompt), answer)) / 1e9
