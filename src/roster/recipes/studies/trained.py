"""Mixtures made smaller, or made to forget, by training: each composes to a function of folders.

`roster compress` runs the same.

- uoe-unlearning: `(folder, out, data, retain, **settings)`; the one expert that the texts to forget engage most is
  trained to forget, with its layer's router held on it.
- moe-kd-ka-sar: `(folder, out, student, data=None, **settings)`; a dense student learns from all of a mixture's
  experts, by reverse KL on what it writes itself.

Trains: one expert and one router; the student, and with SAR the teacher's routers.
Source: see each recipe; both were read second-hand, no code of the authors was found.
Differences: see `roster.compress.unlearning`, `roster.compress.distilling`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from roster.recipes.recipe import Recipe

EVIDENCE = "tests/compress/test_trained.py"


def _trained(name: str, **options: Any) -> Callable[..., Any]:
    # By name and at use: compression stands above the recipes, and they are listed without torch.
    def run(*given: Any, **settings: Any) -> Any:
        return getattr(importlib.import_module("roster.compress"), name)(*given, **{**options, **settings})

    return run


def uoe_unlearning(
    loss: str = "npo",
    steps: int = 100,
    rate: float = 1e-3,
    keep: float = 1.0,
    anchor: float = 1.0,
    beta: float = 0.1,
    batch: int = 4,
) -> Callable[..., Any]:
    """Unlearning by one expert.

    Args:
        loss: "npo" or "ga".
        steps: of the training.
        rate: of learning.
        keep: weight of the loss on texts to keep.
        anchor: weight of the router's anchor.
        beta: of NPO.
        batch: rows of a step, of each kind.
    """
    return _trained("forget", loss=loss, steps=steps, rate=rate, keep=keep, anchor=anchor, beta=beta, batch=batch)


def moe_kd_ka_sar(
    mode: str = "sar", steps: int = 100, rate: float = 1e-4, passes: int = 2, chance: float = 0.05, tokens: int = 64
) -> Callable[..., Any]:
    """Distillation by all experts.

    Args:
        mode: "sar", "ka", or the yardsticks "all" and "top-k".
        steps: of the student.
        rate: of its learning.
        passes: of the teacher, a batch (KA).
        chance: that experts are drawn and not the best (KA).
        tokens: of an answer at most.
    """
    return _trained("distil", mode=mode, steps=steps, rate=rate, passes=passes, chance=chance, tokens=tokens)


RECIPES = (
    Recipe(
        slug="uoe-unlearning",
        title="UOE (unlearning one expert)",
        source="Zhuang et al., 2024, UOE: Unlearning One Expert Is Enough for Mixture-of-Experts LLMs, "
        "arXiv:2411.18797",
        compose=uoe_unlearning,
        trains="router and experts",
        batch_invariant=True,
        claim="One expert and its router forget a set of texts with less harm to other texts than the whole model.",
        evidence=EVIDENCE,
        kind="study",
    ),
    Recipe(
        slug="moe-kd-ka-sar",
        title="KA and SAR (every expert matters)",
        source="Kim et al., 2025, Every Expert Matters: Towards Effective Knowledge Distillation for "
        "Mixture-of-Experts Language Models, arXiv:2502.12947",
        compose=moe_kd_ka_sar,
        trains="everything",
        batch_invariant=True,
        claim="A student distilled by all experts, with routers moved towards it, is better than one distilled by the "
        "experts on duty.",
        evidence=EVIDENCE,
        kind="study",
    ),
)
