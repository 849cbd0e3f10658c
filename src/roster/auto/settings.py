"""What a user may say about `auto`, and which candidates follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from roster.auto.features import POOLINGS, Place
from roster.errors import RosterError

Layer = Literal["auto", "early"] | int
Classifier = Literal["auto", "whitened", "plain"]
OF_ENCODERS: Place = (1, "mean")
"""Stands where a judge keeps its place; an encoder has none."""
_SHARES = {"auto": (1 / 6, 1 / 3, 1 / 2, 2 / 3, 1.0), "early": (1 / 6, 1 / 3)}
"""Of the base's depth."""


@dataclass(frozen=True)
class Settings:
    """Options of the recipe.

    Attributes:
        layer: "auto" tries blocks over the base's whole depth, "early" only its first third, a number only that block.
        classifier: "auto" tries both kinds of means.
        abstain: whether prompts that are like no adapter's are left to the base.
        mix: from which probability on the second best adapter serves along; None never.
        encoder: a sentence encoder's name, or a function, that reads prompts instead of the base; None the base.
    """

    layer: Layer = "auto"
    classifier: Classifier = "auto"
    abstain: bool = True
    mix: float | None = None
    encoder: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.layer, str) and self.layer not in _SHARES:
            raise RosterError(f"auto: layer must be 'auto', 'early' or a number from 1, not {self.layer!r}")
        if self.classifier not in ("auto", "whitened", "plain"):
            raise RosterError(f"auto: classifier must be 'auto', 'whitened' or 'plain', not {self.classifier!r}")
        if isinstance(self.layer, int) and self.layer < 1:
            raise RosterError(f"auto: blocks are counted from 1; there is no layer {self.layer}")
        if self.encoder is not None and self.layer != "auto":
            raise RosterError(f"auto: with an encoder no layer of the base is read: leave layer={self.layer!r} out")
        if self.mix is not None and not 0 < self.mix <= 0.5:
            raise RosterError(
                f"auto: mix is the second best adapter's probability, above 0 and at most 0.5, not {self.mix}"
            )

    def places(self, depth: int) -> list[Place]:
        """The blocks and poolings to try in a base of so many blocks."""
        if self.encoder is not None:
            return [OF_ENCODERS]
        if isinstance(self.layer, int):
            if self.layer > depth:
                raise RosterError(f"auto: the base has {depth} blocks; there is no layer {self.layer}")
            blocks = [self.layer]
        else:
            blocks = sorted({max(1, round(share * depth)) for share in _SHARES[self.layer]})
        return [(block, pooling) for block in blocks for pooling in POOLINGS]

    def kinds(self) -> list[bool]:
        """The classifiers to try: whether features are whitened."""
        return {"auto": [True, False], "whitened": [True], "plain": [False]}[self.classifier]
