"""How sure a model was of its answer: the mean probability of the answer's tokens."""

from __future__ import annotations

import math
from typing import Any

from roster.gateway.requests import Kind


def with_logprobs(body: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """The request, asking for the tokens' log-probabilities unless it does so already."""
    if kind == "chat":
        return body | {"logprobs": True}
    return body if body.get("logprobs") is not None else body | {"logprobs": 0}


def without_logprobs(body: dict[str, Any]) -> None:
    """Takes the log-probabilities out of an answer, for a client who did not ask for them."""
    for choice in body["choices"]:
        choice.pop("logprobs", None)


def confidence(body: dict[str, Any], kind: Kind) -> float | None:
    """The mean over all tokens of all choices, in [0, 1]; None where the answer does not tell."""
    logs: list[float] = []
    for choice in body["choices"]:
        given = choice.get("logprobs")
        tokens = _chat(given) if kind == "chat" else _text(given)
        logs += [each for each in tokens if isinstance(each, (int, float)) and not isinstance(each, bool)]
    return sum(math.exp(min(0.0, each)) for each in logs) / len(logs) if logs else None


def _chat(given: Any) -> list[Any]:
    content = given.get("content") if isinstance(given, dict) else None
    return [each.get("logprob") for each in content if isinstance(each, dict)] if isinstance(content, list) else []


def _text(given: Any) -> list[Any]:
    tokens = given.get("token_logprobs") if isinstance(given, dict) else None
    return tokens if isinstance(tokens, list) else []
