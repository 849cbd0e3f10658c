"""The real ground as `evidence.auto` uses it: questions, hidden states of all of them, and where they are kept.

Everything that takes long is kept in a work folder under a name that says what it is, so that a run that is stopped
goes on where it was.

Shape legend: N prompts, P places, D width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from roster.auto.features import features_of
from roster.auto.settings import Layer, Settings
from roster.auto.turns import header_of
from roster.files import write_whole
from roster.prompts import Prompt, Rendering
from roster.shelf.card import Card
from roster.smol.base import load_base
from roster.smol.groups import Item, group

SIZES = {"known": 5, "unseen": 5, "close": 5, "nobody": 60, "switching": 12}
"""Questions a skill; chats of three turns for switching; prompts for nobody's."""
DEPTH = 30
"""Blocks of the base."""


@dataclass(frozen=True)
class Ground:
    """Base, adapters and a place for intermediate results.

    Attributes:
        adapters: the folder of trained adapters.
        work: where intermediate results are kept.
        scale: multiplies the sizes of the test groups.
        layer: which blocks are read: "auto" the whole depth, "early" the first third.
    """

    adapters: Path
    work: Path
    scale: float = 1.0
    layer: Layer = "auto"

    @property
    def skills(self) -> list[str]:
        """The skills that have an adapter."""
        return sorted(path.parent.name for path in self.adapters.glob("*/adapter_model.safetensors"))

    def items(self, name: str) -> list[Item]:
        """The questions of one group."""
        return group(name, max(1, round(SIZES[name] * self.scale)), tuple(self.skills))

    def examples(self, skill: str) -> list[Prompt]:
        """The example prompts on an adapter's card."""
        return list(Card.read(self.adapters / skill).examples)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, as JSON; made once."""
        path = self.work / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(make(), ensure_ascii=False).encode())
        return json.loads(path.read_text(encoding="utf-8"))


class States:
    """Hidden states of prompts at every place that `auto` may read; each prompt is read once.

    Args:
        ground: whose.
        tick: told what is being read.
    """

    def __init__(self, ground: Ground, tick: Callable[[str], None]):
        self.ground, self.tick = ground, tick
        self.places = Settings(ground.layer).places(DEPTH)
        self._base: tuple[Any, Any] | None = None

    def of(self, name: str, prompts: Sequence[Prompt]) -> Tensor:
        """[N, P, D] for prompts that are known by a name."""
        told = json.dumps([prompts, self.places], ensure_ascii=False).encode()
        path = self.ground.work / "states" / f"{name}-{hashlib.sha256(told).hexdigest()[:12]}.safetensors"
        if not path.exists():
            self.tick(f"reading {len(prompts)} prompts of {name}")
            model, tokenizer = self.base()
            rendering = Rendering(tokenizer)
            header_H = torch.tensor(header_of(rendering))
            states = features_of(model, rendering, header_H, prompts, self.places)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"states": states.contiguous()}, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        return load_file(path)["states"]

    def base(self) -> tuple[Any, Any]:
        """The base and its tokenizer, loaded when first asked for."""
        if self._base is None:
            self._base = load_base()
        return self._base
