"""The LoRA settings of each adapter: unlike one another on purpose, as the folders of users are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from roster.smol.skills import TRAINED

QV = ("q_proj", "v_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
OUTWARD = ("v_proj", "o_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """The settings of one adapter and its training.

    Args:
        rank: of the update matrices.
        alpha: scale; the update is multiplied by ``alpha / rank`` (by ``alpha / sqrt(rank)`` with ``rslora``).
        targets: as in PEFT.
        rslora: whether the scale is that of rank-stabilised LoRA.
        steps: of training.
        batch: questions per step.
        learning_rate: peak.
    """

    rank: int = 8
    alpha: int = 16
    targets: str | tuple[str, ...] = QV
    rslora: bool = False
    steps: int = 96
    batch: int = 8
    learning_rate: float = 3e-3


_KINDS = (
    Shape(),
    Shape(rank=4, alpha=8, targets=ATTENTION, learning_rate=2e-3),
    Shape(rank=4, alpha=8, rslora=True),
    Shape(rank=4, alpha=16, targets=OUTWARD, learning_rate=2e-3),
    Shape(rank=16, alpha=16),
    Shape(rank=8, alpha=32, learning_rate=2e-3),
    Shape(rank=6, alpha=6, targets=ATTENTION, rslora=True, learning_rate=2e-3),
    Shape(rank=4, alpha=8, targets="all-linear", learning_rate=1.5e-3),
)
_REPEATED = (0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 0, 1, 3, 5, 6, 1)
"""Which kind comes when: few of the large ones, so that all adapters together stay below 20 MB."""
_STEPS = dict.fromkeys(("plural", "past", "gerund", "third-person", "number-words"), 144)
"""For what takes longer to learn than the others."""
SHAPES: dict[str, Shape] = {
    skill: replace(kind, steps=_STEPS.get(skill, kind.steps))
    for skill, kind in ((name, _KINDS[_REPEATED[at % len(_REPEATED)]]) for at, name in enumerate(TRAINED))
}

MULTITASK = Shape(rank=32, alpha=64, targets="all-linear", learning_rate=1e-3)
"""One adapter for all skills, with as many weights as all others together (9.8 million); as many steps as they have."""


def lora_config(shape: Shape) -> Any:
    """The PEFT configuration of ``shape``."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=shape.rank,
        lora_alpha=shape.alpha,
        target_modules=shape.targets if isinstance(shape.targets, str) else list(shape.targets),
        use_rslora=shape.rslora,
    )
