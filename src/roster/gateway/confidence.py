"""How sure a model was of its answer: the mean probability of the answer's tokens; or whether its calls are valid.

A policy that judges answers by their texts reads them here too.
"""

from __future__ import annotations

import json
import math
from typing import Any

from roster.gateway import strict_json
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


def worded(body: dict[str, Any], kind: Kind) -> list[str] | None:
    """The text of every choice, for a policy that judges answers by it; None where one has none."""
    texts = [_worded(choice, kind) for choice in body["choices"]]
    return None if not texts or any(not text for text in texts) else texts


def _worded(choice: dict[str, Any], kind: Kind) -> str:
    message = choice if kind != "chat" else choice.get("message")
    text = message.get("content" if kind == "chat" else "text") if isinstance(message, dict) else None
    return text if isinstance(text, str) else ""


def calls_tools(body: dict[str, Any]) -> bool:
    """Whether every choice of an answer calls tools."""
    return all(isinstance(calls := _calls(choice), list) and bool(calls) for choice in body["choices"])


def calls_are_valid(body: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether all calls name a tool that was offered and give its required arguments as a JSON object."""
    offered = [each.get("function") for each in asked.get("tools") or () if isinstance(each, dict)]
    tools = {each["name"]: each for each in offered if isinstance(each, dict) and isinstance(each.get("name"), str)}
    return all(_valid(call, tools) for choice in body["choices"] for call in _calls(choice))


def _calls(choice: dict[str, Any]) -> Any:
    message = choice.get("message")
    return message.get("tool_calls") if isinstance(message, dict) else None


def _valid(call: Any, tools: dict[str, Any]) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or name not in tools:
        return False
    try:
        arguments = strict_json.loads(function.get("arguments") or "{}")
    except (json.JSONDecodeError, TypeError):
        return False
    parameters = tools[name].get("parameters")
    required = parameters.get("required") if isinstance(parameters, dict) else None
    return isinstance(arguments, dict) and all(each in arguments for each in required or ())
