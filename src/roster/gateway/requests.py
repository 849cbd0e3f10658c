"""What clients may send. Fields that OpenAI's API has and the gateway does not read go to the upstream as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from roster.lm.text import Said, content_text


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 5.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(_whole)
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
Tokens = Annotated[int, Field(ge=1, le=100_000_000, strict=True), Whole]
Answers = Annotated[int, Field(ge=1, le=128, strict=True), Whole]
Flag = Annotated[bool, Field(strict=True)]
Kind = Literal["chat", "text"]


class Open(BaseModel):
    """Further fields are kept."""

    model_config = ConfigDict(extra="allow")


class Message(Open):
    """One message of a chat."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """What a model reads of it, without pictures and sounds."""
        return content_text(self.content)


def chat(messages: list[Message]) -> Said:
    """The messages of a chat, as policies are asked about them."""
    return Said(tuple((message.role, message.content) for message in messages))


class StreamOptions(Open):
    """Of a streamed answer."""

    include_usage: Flag | None = None
    continuous_usage_stats: Flag | None = None


_LIMITS = ("max_completion_tokens", "max_tokens")


class Generation(Open):
    """What both kinds of request share."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {"required": [*_LIMITS], "properties": {name: {"type": "integer"} for name in _LIMITS}}
        }
    )

    model: ModelName
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Answers | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens of an answer."""
        return self.max_completion_tokens or self.max_tokens

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give `max_completion_tokens` or `max_tokens`, one of them")
        return self

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_each_usage(self) -> bool:
        """Whether each chunk of a stream tells what was used until then."""
        return bool(self.wants_usage and self.stream_options and self.stream_options.continuous_usage_stats)


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: Flag | None = None

    def parts(self) -> list[str]:
        """The text of each message."""
        return [message.text() for message in self.messages]

    def said(self) -> Said:
        """What policies are asked about."""
        return chat(self.messages)


class TextRequest(Generation):
    """POST /v1/completions; prompts are text, not token ids."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=2048)]
    best_of: Answers | None = None
    logprobs: Annotated[int, Field(ge=0, le=20, strict=True), Whole] | None = None

    def parts(self) -> list[str]:
        """Each prompt."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def said(self) -> Said:
        """What policies are asked about."""
        return Said.plain("\n".join(self.parts()))


class Question(BaseModel):
    """A prompt in either form."""

    messages: Annotated[list[Message], Field(min_length=1)] | SkipJsonSchema[None] = None
    prompt: str | SkipJsonSchema[None] = None

    @property
    def said(self) -> Said | None:
        """What policies are asked about; None when there is nothing."""
        if self.messages is not None:
            return chat(self.messages)
        return None if self.prompt is None else Said.plain(self.prompt)


class RouteRequest(Question):
    """POST /v1/route: like a chat or a completion, and only the decision is returned."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"oneOf": [{"required": ["messages"]}, {"required": ["prompt"]}]}
    )

    model: ModelName = "auto"
    max_tokens: Tokens | None = None

    @model_validator(mode="after")
    def _one(self) -> RouteRequest:
        if {"messages", "prompt"} <= self.model_fields_set or self.said is None:
            raise ValueError("give `messages` or `prompt`, one of them")
        return self


class FeedbackRequest(Question):
    """POST /v1/feedback: how good an answer was. The prompt is needed only where the gateway no longer has it."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=128)]
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True)
class Asked:
    """A generation request, read.

    Attributes:
        kind: chat or text.
        body: as it came.
        raw: the bytes that it came in.
        said: what policies are asked about.
        request: the checked fields.
        passed: headers that go to the upstream.
    """

    kind: Kind
    body: dict[str, Any]
    raw: bytes
    said: Said
    request: ChatRequest | TextRequest
    passed: dict[str, str] = field(default_factory=dict)

    @cached_property
    def prompt(self) -> str:
        """All text that a model reads."""
        return self.said.whole

    @property
    def path(self) -> str:
        """Under an upstream's URL."""
        return "/chat/completions" if self.kind == "chat" else "/completions"

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self.raw)

    def raw_of(self, body: dict[str, Any]) -> bytes | None:
        """The bytes of a body that is still the one that came; None for one that was changed."""
        return self.raw if body is self.body else None

    @property
    def answers(self) -> int:
        """How many are asked for."""
        wanted = self.request.n or 1
        if isinstance(self.request, TextRequest):
            return max(wanted, self.request.best_of or 1) * len(self.request.parts())
        return wanted


def asked(
    request: ChatRequest | TextRequest, body: dict[str, Any], raw: bytes, passed: dict[str, str] | None = None
) -> Asked:
    """Puts a request together with the body that it was read from."""
    kind: Kind = "chat" if isinstance(request, ChatRequest) else "text"
    return Asked(kind, body, raw, request.said(), request, passed or {})
