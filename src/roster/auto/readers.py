"""What a prompt is read by where the base itself is elsewhere: the base's first blocks alone, or an encoder of texts.

A reader turns texts into vectors [N, F]; a `roster.auto.probe.Probe` decides by them. The first blocks of a base are a
hundredth of it: they answer in milliseconds on one core, need no second model, and read what the base would. An encoder
(`roster.lm.encode`) is for bases whose blocks are too large for that, and for those who have one running already.

Shape legend: N prompts, F features, H tokens of a user's header.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from roster.auto.features import Place, Prefix, features_of
from roster.auto.turns import NO_TOKEN, header_of
from roster.errors import RosterError
from roster.lm.encode import Encoder
from roster.prompts import Rendering
from roster.routed.taps import blocks_of

MOST = 160
"""Characters of a prompt that are read, half of them at each end: so a decision takes a bounded time, and what is asked
for is not drowned by what it is asked about (docs/deploy.md)."""
Tick = Callable[[int], None]


class Reader(Protocol):
    """Turns texts into vectors."""

    def read(self, texts: Sequence[str], tick: Tick = lambda count: None) -> Tensor:
        """[N, F]"""
        ...


class FirstBlocks:
    """The first blocks of a causal base, with its embeddings, and without everything behind them.

    Args:
        model: the base, cut (`cut`), without its head.
        rendering: how prompts become tokens.
        place: which block, counted from 1, and which pooling.
    """

    def __init__(self, model: Any, rendering: Rendering, place: Place) -> None:
        self.model, self.rendering, self.place = model.eval(), rendering, place
        header = header_of(rendering)
        self.header_H = torch.tensor(header or [NO_TOKEN], dtype=torch.long)
        texts = [rendering.ids(text) for text in ("alpha", "seven")]
        self._prefix = Prefix(model, texts, header, causal=True) if header else None

    def read(self, texts: Sequence[str], tick: Tick = lambda count: None) -> Tensor:
        """See `Reader`; each text is what a user says first in a chat."""
        prompts = [shortened(text) for text in texts]
        return features_of(self.model, self.rendering, self.header_H, prompts, [self.place], tick, prefix=self._prefix)[
            :, 0
        ]

    def write(self, folder: Path) -> None:
        """The blocks and the tokenizer, as transformers reads them."""
        self.model.save_pretrained(folder)
        self.rendering.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path, template: bool, place: Place) -> FirstBlocks:
        """What `write` wrote.

        Raises:
            RosterError: it cannot be read.
        """
        try:
            model = AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise RosterError(f"cannot read the blocks in {str(folder)!r}: {str(error).splitlines()[0]}") from None
        return cls(model, Rendering(tokenizer, template), place)


class Encoded:
    """An encoder of texts, as whole language models are routed by.

    Args:
        encoder: fitted.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def read(self, texts: Sequence[str], tick: Tick = lambda count: None) -> Tensor:
        """See `Reader`."""
        found = torch.from_numpy(self.encoder.encode([shortened(text) for text in texts]).copy())
        tick(len(texts))
        return found


def cut(model: Any, blocks: int) -> Any:
    """The body of a causal model with so many blocks; the model itself is taken apart for it.

    Raises:
        RosterError: it has fewer.
    """
    body, found = model.base_model, blocks_of(model)
    depth = len(found)
    if blocks > depth:
        raise RosterError(f"the base has {depth} blocks, not {blocks}")
    name = blocks_of(body)[0][0].rpartition(".")[0]
    body.set_submodule(name, nn.ModuleList(block for _, block in found[:blocks]))
    config = body.config.get_text_config()
    for key, value in list(vars(config).items()):  # what it says block by block
        if isinstance(value, list) and len(value) == depth:
            setattr(config, key, value[:blocks])
    config.num_hidden_layers = blocks
    return body


def shortened(text: str) -> str:
    """Both ends of a long text."""
    return text if len(text) <= MOST else f"{text[: MOST // 2]}\n{text[-MOST // 2 :]}"
