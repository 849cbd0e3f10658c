"""Which models can take a request at all, by what the config declares of them; the rest shows when they refuse it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from roster.gateway.config import Model
from roster.gateway.prices import guess_tokens
from roster.gateway.requests import Asked

_SORTS = {"image_url": "image", "input_audio": "audio", "file": "file", "video_url": "video"}
"""The modality of each type of content part."""


def unfit(asked: Asked, models: Mapping[str, Model]) -> dict[str, str]:
    """The models that cannot take a request, each with the code of the error that says why.

    A prompt is as long as its characters suggest (four to a token): who is near the limit is asked and may refuse.
    """
    needed = set(_modalities(asked.body))
    tools = bool(asked.body.get("tools") or asked.body.get("functions"))
    tokens = guess_tokens(asked.prompt)
    found = {}
    for name, model in models.items():
        if model.context is not None and tokens > model.context:
            found[name] = "context_length_exceeded"
        elif model.modalities is not None and needed - set(model.modalities):
            found[name] = "unsupported_modality"
        elif tools and not model.tools:
            found[name] = "unsupported_tools"
    return found


def _modalities(body: dict[str, Any]) -> Iterator[str]:
    for message in body.get("messages", ()):
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            sort = _SORTS.get(part["type"]) if isinstance(part.get("type"), str) else None
            if sort is not None:
                yield sort
