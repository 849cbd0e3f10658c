"""The model as the server sees it: the names that a request may give, how prompts become tokens, and what fits.

Shape legend: E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roster.adapters.mixture import AdapterMixture
from roster.errors import RosterError, nearest
from roster.gateway.errors import ApiError
from roster.gateway.requests import Message
from roster.prompts import Prompt, Rendering
from roster.serve.asked import ServedChat, ServedText
from roster.serve.sampling import Sampling

AUTO, BASE = "auto", "base"


@dataclass(frozen=True)
class Asked:
    """A request, read.

    Attributes:
        model: the name that it gives.
        ids: of the prompt.
        gates_E: who serves; None: the router decides.
        limit: the most tokens of the answer.
        sampling: how they are chosen.
        stops: words that end it.
        ends: tokens that do.
        chat: whether it is a chat.
        stream: whether the answer is wanted piece by piece.
        usage: whether a stream ends with a chunk of usage.
        count: how many answers.
    """

    model: str
    ids: list[int]
    gates_E: Tensor | None
    limit: int
    sampling: Sampling
    stops: list[str]
    ends: frozenset[int]
    chat: bool
    stream: bool
    usage: bool
    count: int = 1


class ServedMixture:
    """A routed mixture of adapters.

    Args:
        model: what `roster.load` returned, with its tokenizer.
        max_tokens: the most tokens of an answer.

    Raises:
        RosterError: not a mixture of adapters on a causal model, no tokenizer, or an adapter with a reserved name.
    """

    def __init__(self, model: Any, max_tokens: int = 1024) -> None:
        mixture = getattr(model, "roster", None)
        if not isinstance(mixture, AdapterMixture):
            raise RosterError("`roster serve` serves mixtures of adapters, as `roster build` writes them")
        if getattr(model.config, "is_encoder_decoder", False):
            raise RosterError("`roster serve` serves models without an encoder")
        if taken := sorted({AUTO, BASE} & set(mixture.experts)):
            raise RosterError(f"an adapter is called {taken[0]!r}, which has a meaning of its own here: rename it")
        self.model, self.mixture, self.max_tokens = model, mixture, max_tokens
        self.rendering: Rendering = mixture.rendering
        self._raw = Rendering(mixture.tokenizer, template=False)
        text = model.config.get_text_config()
        self.context: int | None = getattr(text, "max_position_embeddings", None)
        if self.context is not None and mixture.virtual is not None:
            self.context -= mixture.virtual.most
        end = getattr(model.generation_config, "eos_token_id", None)
        ends = end if isinstance(end, list) else [end]
        own = getattr(mixture.tokenizer, "eos_token_id", None)
        self.ends = frozenset(each for each in (*ends, own) if each is not None)

    @property
    def names(self) -> list[str]:
        """What a request may give as its model: the router, where it decides by itself, the base, every adapter."""
        return [*([] if self.mixture.plan.routes_by_task else [AUTO]), BASE, *self.mixture.experts]

    def gates(self, name: str) -> Tensor | None:
        """The weights [E] that a name stands for; None for the router's own.

        Raises:
            ApiError: 404, there is no such name.
        """
        if name not in self.names:
            message = f"The model {name!r} does not exist: {nearest(name, self.names)}"
            raise ApiError(404, message, "model_not_found", param="model")
        if name == AUTO:
            return None
        return torch.tensor([float(name == each) for each in self.mixture.experts])

    def read(self, request: ServedChat | ServedText) -> Asked:
        """Checks a request and makes its prompt into tokens.

        Raises:
            ApiError: a field that is not heeded, no such model, a prompt that cannot be read, or one that does not fit.
        """
        if (field := request.unheeded) is not None:
            message = f"`{field}` is not supported by this server, and without it the answer would be another."
            raise ApiError(400, message, "unsupported_parameter", param=field)
        gates_E, chat = self.gates(request.model), isinstance(request, ServedChat)
        ids = self._chat_ids(request) if isinstance(request, ServedChat) else self._text_ids(request)
        limit = self._limit(len(ids), request.limit, "messages" if chat else "prompt")
        seed, temperature = request.seed, request.temperature or 0.0
        sampling = Sampling(temperature, request.top_p or 1.0, None if seed is None else seed % 2**63)
        ends: frozenset[int] = frozenset() if request.ignore_eos else self.ends
        return Asked(
            request.model, ids, gates_E, limit, sampling, request.stops, ends, chat, bool(request.stream),
            request.wants_usage, request.n or 1,
        )  # fmt: skip

    def ids(self, prompt: Prompt, param: str, raw: bool = False) -> list[int]:
        """Tokens of a prompt.

        Raises:
            ApiError: it cannot be rendered, or is empty.
        """
        try:
            ids = (self._raw if raw else self.rendering).ids(prompt)
        except RosterError as error:
            raise ApiError(400, str(error), "invalid_request", param=param) from None
        if not ids:
            raise ApiError(400, "The prompt is empty.", "invalid_request", param=param)
        return ids

    def answer_ids(self, answer: str, prompt: int) -> list[int]:
        """Tokens of an answer, cut where the context ends behind a prompt of so many."""
        ids = list(self.mixture.tokenizer(answer, add_special_tokens=False)["input_ids"]) if answer else []
        return ids if self.context is None else ids[: max(0, self.context - prompt)]

    def _chat_ids(self, request: ServedChat) -> list[int]:
        turns = [{"role": each.role, "content": _content(each)} for each in request.messages]
        if self.rendering.templated:
            return self.ids(turns, "messages")  # type: ignore[arg-type]  # roles and contents are checked by the request
        if len(turns) > 1 or turns[0]["role"] != "user":
            message = "This base has no chat template: send one message of the user, or a prompt to /v1/completions."
            raise ApiError(400, message, "invalid_request", param="messages")
        return self.ids(turns[0]["content"], "messages")

    def _text_ids(self, request: ServedText) -> list[int]:
        if len(request.parts()) > 1:
            raise ApiError(400, "Send one prompt in a request.", "invalid_request", param="prompt")
        return self.ids(request.parts()[0], "prompt", raw=True)

    def _limit(self, prompt: int, wanted: int | None, param: str) -> int:
        if wanted is not None and wanted > self.max_tokens:
            message = f"At most {self.max_tokens} tokens of an answer can be asked for, not {wanted}."
            raise ApiError(400, message, "invalid_request", param="max_tokens")
        if self.context is None:
            return wanted or self.max_tokens
        left = self.context - prompt
        if left < (wanted or 1):
            message = f"This model's maximum context length is {self.context} tokens; the prompt has {prompt}"
            message += "." if wanted is None else f" and {wanted} are wanted for the answer."
            raise ApiError(400, message, "context_length_exceeded", param=param)
        return wanted or min(self.max_tokens, left)

    def extension(self, request_id: str, asked: Asked, weights: dict[str, float]) -> dict[str, Any]:
        """The `roster` field of an answer: who was on duty, and why."""
        reason = {AUTO: f"decided by the router {self.mixture.recipe!r}", BASE: "the base was asked for by name"}
        told = {name: round(weight, 4) for name, weight in weights.items() if round(weight, 4) != 0}
        why = reason.get(asked.model, "asked for by name")
        return {"id": request_id, "model": asked.model, "recipe": self.mixture.recipe, "on_duty": told, "reason": why}


def _content(message: Message) -> str:
    if isinstance(message.content, list) and any(part.get("type") != "text" for part in message.content):
        raise ApiError(400, "This model reads text only.", "unsupported_modality", param="messages")
    return message.text()
