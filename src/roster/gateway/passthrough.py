"""/v1/embeddings and /v1/responses, passed through to an upstream that has them, byte for byte.

The model is named or, for responses, chosen by a policy; the gateway changes only that name, in the request and in the
answer, counts what the usage says, and keeps budgets. It does not judge answers, so a cascade gives its first step's.
What a client sends or gets beside the fields read here is none of the gateway's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Request, Response
from pydantic import ConfigDict, Field

from roster.gateway.outbound import passed_headers
from roster.gateway.passed import Passed
from roster.gateway.passing import Sent, begin
from roster.gateway.requests import Flag, ModelName, Open, Tokens
from roster.lm.text import Content, Said

if TYPE_CHECKING:
    from roster.gateway.gateway import Gateway


class Embeddings(Open):
    """POST /v1/embeddings: `model` and `input` are read, the rest goes to the upstream as it is."""

    model_config = ConfigDict(extra="allow")

    model: ModelName
    input: Annotated[Any, Field(description="Text, texts or token ids, as the upstream takes them.")]


class Responses(Open):
    """POST /v1/responses: the fields below are read, the rest goes to the upstream as it is."""

    model: ModelName
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: Flag | None = None
    max_output_tokens: Tokens | None = None

    def said(self) -> Said:
        """What policies are asked about."""
        first = [("system", self.instructions)] if self.instructions else []
        if isinstance(self.input, str):
            return Said((*first, ("user", self.input)))
        return Said((*first, *(_message(each) for each in self.input)))


def _message(item: dict[str, Any]) -> tuple[str, Content]:
    role, content = item.get("role"), item.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return role if isinstance(role, str) else "", content if isinstance(content, str) else parts


async def embeddings(request: Request, body: Embeddings) -> Response:
    """Vectors for texts, from the model that the request names."""
    return await _pass(request, "/embeddings", body.model, Said.plain(""), most=0)


async def responses(request: Request, body: Responses) -> Response:
    """OpenAI's Responses, from the model that the request names or that a policy chooses."""
    return await _pass(request, "/responses", body.model, body.said(), most=body.max_output_tokens)


async def _pass(request: Request, path: str, name: str, said: Said, most: int | None) -> Response:
    gateway: Gateway = request.app.state.gateway
    raw, headers = await request.body(), passed_headers(request.headers)
    sent = Sent(path, await request.json(), raw, len(raw), headers, most)
    passing = begin(gateway, request.state.caller, name, sent)
    leg, response = await passing.send(said)
    return Passed(passing, leg, response)
