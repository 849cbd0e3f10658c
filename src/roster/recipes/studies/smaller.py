"""Mixtures made smaller on disk: each composes to `(folder, out, to, data=None) -> what became of each layer`.

`roster compress` runs the same. Calibration is on the user's JSONL, one layer in memory at a time; what is written is
what plain transformers loads (Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE).

- reap: the experts with the largest mean of gate * norm of the answer stay, the others go.
- ream: the others are merged into them, units aligned by what they say and by weights, layer after layer.
- mc-smoe: others join the dominant (most used) expert with the most similar router logits; means by use.
- uncurl: clusters of experts with similar router logits on a task's texts; means by use.
- moe-pruner: single weights go, row by row, by |W| * ||x gate||; half of them, or 2 of every 4.
- expert-use: the least used experts go; the yardstick.

Trains: nothing; the sources that train afterwards (mc-smoe, uncurl, moe-pruner) are followed up to there.
Source: see each recipe.
Differences: see `roster.compress.merging`, `roster.compress.ream`, `roster.compress.pruner`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from roster.recipes.recipe import Recipe

EVIDENCE = "tests/compress/test_smaller.py"


def _smaller(method: str, **options: Any) -> Callable[..., Any]:
    def run(folder: str, out: str, to: str, data: str | None = None, **settings: Any) -> Any:
        # By name and at use: compression stands above the recipes, and they are listed without torch.
        room = importlib.import_module("roster.compress")
        return room.compress(folder, out, method, to, data=data, options=options, **settings)

    return run


def reap() -> Callable[..., Any]:
    """Experts dropped by router-weighted activation."""
    return _smaller("reap")


def expert_use() -> Callable[..., Any]:
    """Experts dropped by use."""
    return _smaller("expert-use")


def ream(group: int = 16) -> Callable[..., Any]:
    """Experts merged by router-weighted activation.

    Args:
        group: experts that a centroid takes at most.
    """
    return _smaller("ream", group=group)


def mc_smoe(
    budget: str = "uniform", form: str = "smaller", rows: str = "mean", rank: int = 0, columns: float = 0.1
) -> Callable[..., Any]:
    """Experts merged into the most used ones, and low rank plus sparse.

    Args:
        budget: "uniform" or "global".
        form: "smaller", or "copies" (the authors' function, as large as before).
        rows: of the router, "mean" or "dominant".
        rank: of low rank plus sparse; 0 leaves matrices whole.
        columns: share of columns of the sparse part.
    """
    return _smaller("mc-smoe", budget=budget, form=form, rows=rows, rank=rank, columns=columns)


def uncurl() -> Callable[..., Any]:
    """Experts merged by clusters of a task's router logits."""
    return _smaller("uncurl")


def moe_pruner(score: str = "gated") -> Callable[..., Any]:
    """Single weights set to 0.

    Args:
        score: "gated", "wanda" or "magnitude".
    """
    return _smaller("moe-pruner", score=score)


def _recipe(slug: str, title: str, source: str, compose: Callable[..., Any], claim: str | None) -> Recipe:
    return Recipe(slug, title, source, compose, "nothing", True, claim, EVIDENCE, kind="study")


RECIPES = (
    _recipe(
        "reap",
        "REAP",
        "Lasby et al., 2025, REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression, arXiv:2510.13999",
        reap,
        "Dropping half of the experts by mean gate times norm of the answer costs generation less than merging them.",
    ),
    _recipe(
        "ream",
        "REAM",
        "Jha et al., 2026, REAM: Merging Improves Pruning of Experts in LLMs, arXiv:2604.04356",
        ream,
        "Merging the experts that REAP would drop into the ones that it keeps loses less than dropping them.",
    ),
    _recipe(
        "mc-smoe",
        "MC-SMoE",
        "Li et al., 2024, Merge, Then Compress: Demystify Efficient SMoE with Hints from Its Routing Policy, "
        "arXiv:2310.01334",
        mc_smoe,
        "Merging aligned experts by use, grouped by router logits, loses less than plain means and than dropping the "
        "least used.",
    ),
    _recipe(
        "uncurl",
        "UNCURL",
        "Sarkar et al., 2024, Revisiting SMoE Language Models by Evaluating Inefficiencies with Task Specific Expert "
        "Pruning, arXiv:2409.01483",
        uncurl,
        "Halving a mixture's experts by clusters of a task's router logits loses less on the task than dropping the "
        "least used.",
    ),
    _recipe(
        "moe-pruner",
        "MoE-Pruner",
        "Xie et al., 2024, MoE-Pruner: Pruning Mixture-of-Experts Large Language Model using the Hints from Its "
        "Router, arXiv:2410.12013",
        moe_pruner,
        "At half of the weights, scores with the router's weights lose less than Wanda's and than magnitude.",
    ),
    _recipe("expert-use", "Dropping the least used experts", "roster", expert_use, None),
)
