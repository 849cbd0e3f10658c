"""Strategies for experts that do not fit into memory; each composes to what `roster.offload.load` and `simulate` run.

The module that a recipe names (`roster.offload.fate`, ...) says what its method does, and what differs from the source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roster.recipes.recipe import Recipe


def fate_offload(shallow: float = 0.5, extra: int = 0) -> Callable[..., Any]:
    """The next layer's gate on this layer's input; see `roster.offload.fate`.

    Args:
        shallow: how many times a fair share of slots the first layer has more than the last.
        extra: experts named for each token beyond those that it will visit.
    """
    # Imported at use: recipes are listed without torch.
    from roster.offload.fate import fate

    return fate(shallow, extra)


def moe_infinity(capacity: int = 120, most: int = 8) -> Callable[..., Any]:
    """Matches the sequence's activation matrix with earlier ones; see `roster.offload.moe_infinity`.

    Args:
        capacity: matrices that are kept.
        most: experts named at a time.
    """
    from roster.offload.moe_infinity import moe_infinity as strategy

    return strategy(capacity, most)


def expertflow(passes: int = 20, extra: int = 0, seed: int = 0) -> Callable[..., Any]:
    """A network foretells routes from token ids; see `roster.offload.expertflow`.

    Args:
        passes: over the recorded routes that it is trained on.
        extra: experts named for each token beyond those that it will visit.
        seed: of the training.
    """
    from roster.offload.expertflow import expertflow as strategy

    return strategy(passes, extra, seed)


def moe_deployment(static: float = 0.5) -> Callable[..., Any]:
    """Popular experts stay, idle ones go last in, first out; see `roster.offload.moe_deployment`.

    Args:
        static: share of each layer's slots for its most popular experts.
    """
    from roster.offload.moe_deployment import moe_deployment as strategy

    return strategy(static)


def _recipe(**named: Any) -> Recipe:
    return Recipe(trains="nothing", batch_invariant=True, evidence="docs/offload.md", kind="offload", **named)


RECIPES = (
    _recipe(
        slug="fate-offload",
        title="Fate",
        source="Fang et al., 2025, Accurate Expert Predictions in MoE Inference via Cross-Layer Gate, arXiv:2502.12224",
        compose=fate_offload,
        claim="The next layer's gate on this layer's input names far more of the next experts than their popularity "
        "does, and with it a cache misses less than LRU with as many slots.",
    ),
    _recipe(
        slug="moe-infinity",
        title="MoE-Infinity",
        source="Xue et al., 2024, MoE-Infinity: Activation-Aware Expert Offloading for Efficient MoE Serving, "
        "arXiv:2401.14361",
        compose=moe_infinity,
        claim="A cache that follows activation matrices of earlier sequences hits more than LRU and LFU with as many "
        "slots.",
    ),
    _recipe(
        slug="expertflow",
        title="ExpertFlow",
        source="He et al., 2024, ExpertFlow: Optimized Expert Activation and Token Allocation for Efficient "
        "Mixture-of-Experts Inference, arXiv:2410.17954",
        compose=expertflow,
        needs=("training",),
        claim="Experts foretold from token ids alone hit more than LRU with as many slots, and batches regrouped by "
        "them visit fewer experts.",
    ),
    _recipe(
        slug="moe-deployment",
        title="Expert buffering",
        source="Huang et al., 2023, Towards MoE Deployment: Mitigating Inefficiencies in Mixture-of-Expert (MoE) "
        "Inference, arXiv:2303.06182",
        compose=moe_deployment,
        claim="Keeping popular experts and letting idle ones go, the last come first, hits at least as often as first "
        "in, first out.",
    ),
)
