"""A judge that reads sentences: the last turn's tokens become text again, and an encoder of texts makes the vector.

For bases whose states are dear, and for those who have an encoder running already. The base is not asked at all; what
an encoder reads is bounded (`roster.auto.readers.shortened`), what the judge makes of its vectors is the same.

An encoder goes into files by its name and with what it has learned, never with pretrained weights. A function cannot:
a mixture that was built with one asks for it again (`SentenceJudge.encode_by`).

Shape legend: B batch rows, S tokens, N prompts, F features, H tokens around what a user says, X bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from roster.auto.features import Place
from roster.auto.fitting import Examples, Read
from roster.auto.generic import GENERIC
from roster.auto.judge import Judge
from roster.auto.readers import Encoded
from roster.auto.turns import NO_TOKEN, footer_of, header_of, last_turn
from roster.context import Context
from roster.errors import RosterError
from roster.library import Library
from roster.lm.encode import KINDS, Encoder, encoder
from roster.lm.encode.base import normalised
from roster.lm.part import pack, unpack
from roster.prompts import Prompt, Rendering, padded

Embed = Callable[[Sequence[str]], Any]
"""Texts to vectors, [N] -> [N, F]: a function, or a model's `encode`."""
_TREE = "tree"


class Function(Encoder):
    """A function of the caller's.

    Args:
        embed: texts to vectors; None after it was read from a file.
    """

    def __init__(self, embed: Embed | None = None):
        self.embed = embed

    def fit(self, prompts: Sequence[str]) -> Function:
        """Encodes one prompt, so that a function of another kind is noticed before any work."""
        self.encode(list(prompts)[:1])
        return self

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """The rows [N, F], of length 1.

        Raises:
            RosterError: no function, or not a vector of numbers for each text.
        """
        if self.embed is None:
            raise RosterError(
                "this mixture decides by a function that its folder cannot hold: hand it over again with "
                "model.roster.head.encode_by(function)"
            )
        given = self.embed(list(prompts))
        try:
            x_NF = np.asarray(given.detach().cpu().float() if isinstance(given, Tensor) else given, dtype=float)
        except (TypeError, ValueError) as error:
            raise RosterError(f"the function given as encoder= returned no vectors: {error}") from None
        if x_NF.ndim != 2 or len(x_NF) != len(prompts) or not np.isfinite(x_NF).all():
            raise RosterError(
                f"the function given as encoder= must return a vector of finite numbers for each text: of "
                f"{len(prompts)} texts it made {list(x_NF.shape)}"
            )
        return normalised(x_NF)


class SentenceJudge(Judge):
    """Decides by what an encoder makes of the last turn's text.

    Args:
        num_experts: E. What it knows comes from `prepare` and `learn`, or from a file.
    """

    reads_text = True
    sized_by_file = Judge.sized_by_file | {"encoder_X", "footer_H"}
    encoder_X: Tensor
    footer_H: Tensor
    _reader: Encoded | None

    def __init__(self, num_experts: int):
        super().__init__(num_experts)
        self.register_buffer("encoder_X", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("footer_H", torch.zeros(0, dtype=torch.long))

    def prepare(self, given: str | Embed, rendering: Rendering, prompts: Sequence[Prompt]) -> None:
        """Fits the encoder.

        Args:
            given: its name (`roster.lm.encode.encoder`), or a function.
            rendering: how prompts become tokens.
            prompts: that it may learn from.
        """
        self.header_H, self.footer_H = _numbers(header_of(rendering)), _numbers(footer_of(rendering))
        fitted = (encoder(given) if isinstance(given, str) else Function(given)).fit(self.texts_of(rendering, prompts))
        self.encoder_X = _as_bytes(fitted)
        self._reader = Encoded(fitted)

    def settle(self) -> None:
        """Looks up what every prompt asks for; the encoder is made when the first prompt comes."""
        super().settle()
        self.blocks = ()
        self._reader = None

    def learn(self, knowledge: Any) -> None:
        """Takes over what was found out; the encoder stays."""
        reader = getattr(self, "_reader", None)
        super().learn(knowledge)
        self._reader = reader

    def encode_by(self, function: Embed) -> None:
        """Hands over the function that a saved mixture was built with."""
        if not isinstance(self.reader.encoder, Function):
            raise RosterError(f"this mixture decides by its own encoder, {type(self.reader.encoder).__name__}")
        self._reader = Encoded(Function(function))

    @property
    def reader(self) -> Encoded:
        """What turns texts into vectors.

        Raises:
            RosterError: what a file says of it cannot be read.
        """
        if self._reader is None:
            self._reader = Encoded(_of_bytes(self.encoder_X))
        return self._reader

    def texts(self, rendering: Rendering, ids_BS: Tensor, prompt_BS: Tensor) -> list[str]:
        """What the user says last in each row: the last turn's tokens without the template's own, as text."""
        turn_BS, footer = last_turn(ids_BS, prompt_BS, self.header_H.to(ids_BS.device)), self.footer_H.tolist()
        found = []
        for ids, kept in zip(ids_BS.tolist(), turn_BS.tolist(), strict=True):
            own = [each for each, wanted in zip(ids, kept, strict=True) if wanted]
            if footer and own[-len(footer) :] == footer:
                own = own[: -len(footer)]
            found.append(rendering.tokenizer.decode(own, skip_special_tokens=True))
        return found

    def texts_of(self, rendering: Rendering, prompts: Sequence[Prompt]) -> list[str]:
        """The same of prompts, by way of their tokens, so that examples are read as what is routed later."""
        rows = [padded([rendering.ids(prompt)], rendering.pad_token_id) for prompt in prompts]
        return [self.texts(rendering, row["input_ids"], row["attention_mask"].bool())[0] for row in rows]

    def features_of_text(self, rendering: Rendering, context: Context) -> Tensor:
        """[B, F] of a call whose prompts are to be decided on.

        Raises:
            RosterError: the call has embeddings in place of tokens.
        """
        ids_BS = context.input_ids_BS
        if ids_BS is None:
            raise RosterError("auto with an encoder reads texts, and the call has inputs_embeds: give input_ids")
        texts = self.texts(rendering, ids_BS, context.prompt_mask(ids_BS.device))
        return self.reader.read(texts).float().to(self.center_F.device)

    def read(self, model: Any, rendering: Rendering, prompts: Sequence[Prompt]) -> Tensor:
        """[N, F] of prompts."""
        return self.reader.read(self.texts_of(rendering, prompts)).half()


def prepared(judge: Any, given: str | Embed, library: Library, rendering: Rendering) -> Read:
    """How examples become features for a judge whose encoder has been fitted to them.

    Args:
        judge: a `SentenceJudge`.
        given: an encoder's name, or a function.
        library: the experts.
        rendering: how prompts become tokens.
    """
    judge.prepare(given, rendering, [*Examples.of(library).prompts, *GENERIC])

    def read(prompts: Sequence[Prompt], places: Sequence[Place], tick: Callable[[int], None]) -> Tensor:
        features_NF: Tensor = judge.read(None, rendering, prompts)
        tick(len(prompts))
        return features_NF[:, None]

    return read


def _numbers(tokens: Sequence[int]) -> Tensor:
    return torch.tensor(list(tokens) or [NO_TOKEN], dtype=torch.long)


def _as_bytes(fitted: Encoder) -> Tensor:
    """An encoder as one file of safetensors, [X]: what it is as JSON, and what it has learned."""
    tree, arrays = pack(Function() if isinstance(fitted, Function) else fitted)
    told = torch.frombuffer(bytearray(json.dumps(tree).encode()), dtype=torch.uint8)
    whole = save({_TREE: told, **{f".{name}": torch.from_numpy(each) for name, each in arrays.items()}})
    return torch.frombuffer(bytearray(whole), dtype=torch.uint8)


def _of_bytes(encoder_X: Tensor) -> Encoder:
    try:
        stored = load(encoder_X.cpu().numpy().tobytes())
        tree = json.loads(stored.pop(_TREE).numpy().tobytes())
        arrays = {name.removeprefix("."): each.numpy() for name, each in stored.items()}
        found: Encoder = unpack(tree, arrays, KINDS | {Function.__name__: Function})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RosterError(f"the encoder in the mixture's router.safetensors cannot be read: {error}") from None
    return found
