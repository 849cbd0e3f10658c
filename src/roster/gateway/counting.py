"""Tokens of a call whose upstream does not count them: by the model's tokenizer, else the most there can be.

The bound is one token for each byte of UTF-8, which no tokenizer exceeds, cut at the limit that was sent: what is
charged may be too much for the owner of the key, never too little for the owner of the budget, and never more than was
reserved. Tokens that a model thinks and shows to nobody cannot be counted here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from roster.errors import RosterError
from roster.gateway.config import Model
from roster.gateway.prices import Usage
from roster.gateway.requests import Asked

TEMPLATE_TOKENS = 64
"""More than a chat template adds around a message, or around a call of a tool."""
TYPICAL_TEMPLATE = 8
"""What one does add around a message, roughly; used beside a tokenizer."""
_NOT_WRITTEN = frozenset({"role", "id", "type", "index", "object", "data", "signature", "format", "annotations"})
"""Fields of a message that hold no text of the model's own."""
_THOUGHTS = ("reasoning", "reasoning_content", "reasoning_details", "thinking")
"""The same text under several names, for several clients."""
_PROMPT_FIELDS = ("tools", "functions", "response_format")


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer from its tokenizer.json.

    Raises:
        RosterError: there is none.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise RosterError(f"tokenizer: {path}: cannot be read: {error}") from None


class Produced:
    """What a model has written so far.

    Args:
        tokenizer: counts it; None: it is bounded, and no text is kept.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._texts: defaultdict[int, list[str]] = defaultdict(list)
        self._bytes: defaultdict[int, int] = defaultdict(int)
        self._calls = 0

    def add(self, index: int, choice: dict[str, Any]) -> None:
        """Notes a choice of an answer, or a piece of one."""
        message = choice.get("delta", choice.get("message"))
        written = message if isinstance(message, dict) else {"text": choice.get("text")}
        for text in _written(written):
            self._bytes[index] += len(text.encode("utf-8", "surrogatepass"))
            if self._tokenizer is not None:
                self._texts[index].append(text)
        self._calls += _calls(written)

    @property
    def wrote(self) -> bool:
        """Whether it has written anything."""
        return self._calls > 0 or any(self._bytes.values())

    def tokens(self) -> int:
        """Of all choices, with the mark that ends each."""
        template = self._calls * (TEMPLATE_TOKENS if self._tokenizer is None else TYPICAL_TEMPLATE)
        if self._tokenizer is None:
            return template + sum(self._bytes.values()) + len(self._bytes)
        return template + sum(1 + _count(self._tokenizer, "".join(texts)) for texts in self._texts.values())


def usage_of(
    asked: Asked, model: Model, tokenizer: Tokenizer | None, produced: Produced, before: Usage | None = None
) -> Usage:
    """What a call used, by what was sent and what came.

    Args:
        asked: what was sent.
        model: to whom.
        tokenizer: the model's.
        produced: what came.
        before: what the upstream had counted when that began to come.
    """
    completion = produced.tokens() + (0 if before is None else before.completion)
    if before is not None:
        return replace(before, completion=completion, counted="tokenizer" if tokenizer else "bound", told=None)
    if tokenizer is None:
        return Usage(most_prompt(asked, model), completion, "bound")
    images, _ = _images(asked.body)
    prompt = sum(_count(tokenizer, text) for text in _prompt_texts(asked.body)) + images * (model.image_tokens or 0)
    return Usage(prompt + TYPICAL_TEMPLATE * (len(asked.request.parts()) + 1), completion, "tokenizer")


def most_prompt(asked: Asked, model: Model) -> int:
    """The most tokens that a request can have, pictures by URL aside where the model has no `image_tokens`.

    A token of text is at least one byte of the request; a picture is as many as the model's rule says, if it has one.
    """
    tokens = asked.size + TEMPLATE_TOKENS * (len(asked.request.parts()) + 1)
    if model.image_tokens is None:
        return tokens
    images, written = _images(asked.body)
    return tokens - written + images * model.image_tokens


def _count(tokenizer: Tokenizer, text: str) -> int:
    plain = text.encode("utf-8", "replace").decode()  # a lone surrogate is no text
    return len(tokenizer.encode(plain, add_special_tokens=False).ids)


def _written(message: dict[str, Any]) -> Iterator[str]:
    thoughts = [list(_strings(message.get(name))) for name in _THOUGHTS]
    yield from max(thoughts, key=lambda texts: sum(map(len, texts)))
    yield from _strings({name: value for name, value in message.items() if name not in _THOUGHTS})


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            if name not in _NOT_WRITTEN:
                yield from _strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each)


def _calls(message: dict[str, Any]) -> int:
    """Calls of tools that begin here."""
    told = message.get("tool_calls")
    calls = [each.get("function") for each in told if isinstance(each, dict)] if isinstance(told, list) else []
    return sum(isinstance(each, dict) and bool(each.get("name")) for each in [*calls, message.get("function_call")])


def _prompt_texts(body: dict[str, Any]) -> Iterator[str]:
    yield from _strings(body.get("prompt"))
    for message in body.get("messages", ()):
        yield from _strings({name: value for name, value in message.items() if name != "content"})
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        yield from (part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))
    for name in _PROMPT_FIELDS:
        if body.get(name):
            yield json.dumps(body[name], ensure_ascii=False)


def _images(body: dict[str, Any]) -> tuple[int, int]:
    """How many pictures a request has, and how many bytes of it are their data."""
    found = written = 0
    for message in body.get("messages", ()):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            image = part.get("image_url") if part.get("type") == "image_url" else None
            if image is None:
                continue
            found += 1
            url = image.get("url") if isinstance(image, dict) else image
            if isinstance(url, str) and url.startswith("data:") and url.isascii():
                written += len(url)
    return found, written
