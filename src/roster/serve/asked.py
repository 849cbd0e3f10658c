"""What clients may send to `roster serve`: the gateway's requests, with the fields that a model itself must heed.

A field that would change the answer and that this server does not know how to heed is refused, never ignored.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from roster.gateway.requests import ChatRequest, Flag, Generation, Open, TextRequest, Whole

Words = Annotated[str, Field(min_length=1, max_length=256)]
MOST = 16
"""Answers to one request."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "tools": ([],),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "echo": (False,),
    "suffix": ("",),
}
"""Fields of OpenAI's that are not heeded, and what may be said in them all the same, beside null."""


class Heeded(Generation):
    """The fields that say how tokens are chosen.

    Attributes:
        n: how many answers.
        ignore_eos: go on after the model has ended, up to the limit, as vLLM does when asked; for measurements.
    """

    n: Annotated[int, Field(ge=1, le=MOST, strict=True), Whole] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    ignore_eos: Flag | None = None
    stop: Words | Annotated[list[Words], Field(max_length=4)] | None = None

    @property
    def unheeded(self) -> str | None:
        """The first field that would change the answer and is not heeded here."""
        given = ((name, getattr(self, name, None), neutral) for name, neutral in NEUTRAL.items())
        return next((name for name, value, neutral in given if value is not None and value not in neutral), None)

    @property
    def stops(self) -> list[str]:
        """The words that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ServedChat(Heeded, ChatRequest):
    """POST /v1/chat/completions."""


class ServedText(Heeded, TextRequest):
    """POST /v1/completions."""


class TraceRequest(Open):
    """POST /v1/trace: who was on duty for each token of a prompt and an answer to it."""

    model: Annotated[str, Field(min_length=1, max_length=256)] = "auto"
    prompt: Annotated[str, Field(min_length=1)]
    answer: str = ""
