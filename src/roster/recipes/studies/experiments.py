"""Small experiments of the literature on mixtures, run here from scratch; the code is in `evidence.studies`.

Each recipe composes to a function of a seed that returns the experiment's figures.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from roster.errors import RosterError
from roster.recipes.recipe import Recipe

Experiment = Callable[[int], dict[str, float]]


def _study(name: str) -> Experiment:
    # By name and at use: the evidence stands above the package, which works without it.
    try:
        check: Experiment = importlib.import_module(f"evidence.studies.{name}").check
        return check
    except ModuleNotFoundError as error:
        if error.name not in ("evidence", "evidence.studies"):
            raise
        raise RosterError(
            f"the study {name!r} is run from a checkout of roster, at its root: its code is in evidence/, which is no "
            "part of the installed package"
        ) from None


def vision_moe_routers() -> Experiment:
    """Six routers in the same small vision transformer on scikit-learn's digits: `seed -> accuracy of each`."""
    return _study("vision_routers")


def understanding_moe() -> Experiment:
    """One expert against many, linear against nonlinear, on a mixture of classification problems."""
    return _study("clusters")


def pmoe_patch_routing() -> Experiment:
    """A network that sees all patches against experts that take the best few, over sizes of the training set."""
    return _study("patches")


def fine_grained_moe_scaling() -> Experiment:
    """A scaling law in parameters, tokens and granularity, fitted to small language models trained here."""
    return _study("granularity")


VISION = Recipe(
    slug="vision-moe-routers",
    title="Six routers for vision",
    source="Liu et al., 2024, Routers in Vision Mixture of Experts: An Empirical Study, arXiv:2401.15969",
    compose=vision_moe_routers,
    trains="everything",
    batch_invariant=True,
    claim="Experts that choose tokens are more accurate than tokens that choose experts, and soft mixtures are the "
    "most accurate.",
    evidence="docs/results/claims.md",
    kind="study",
)
CLUSTERS = Recipe(
    slug="understanding-moe",
    title="Towards understanding mixtures",
    source="Chen et al., 2022, Towards Understanding Mixture of Experts in Deep Learning, arXiv:2208.02813",
    compose=understanding_moe,
    trains="everything",
    batch_invariant=True,
    claim="On a mixture of classification problems, nonlinear experts with a router succeed where one expert and "
    "linear experts fail, and the router finds the clusters.",
    evidence="docs/results/claims.md",
    kind="study",
)
PATCHES = Recipe(
    slug="pmoe-patch-routing",
    title="Patch-level routing",
    source="Chowdhury et al., 2023, Patch-level Routing in Mixture-of-Experts is Provably Sample-efficient, "
    "arXiv:2306.04073",
    compose=pmoe_patch_routing,
    trains="everything",
    batch_invariant=True,
    claim="Experts that each take a few patches need fewer training images than a network that sees all of them.",
    evidence="docs/results/claims.md",
    kind="study",
)
GRANULARITY = Recipe(
    slug="fine-grained-moe-scaling",
    title="Scaling laws of granularity",
    source="Krajewski et al., 2024, Scaling Laws for Fine-Grained Mixture of Experts, arXiv:2402.07871",
    compose=fine_grained_moe_scaling,
    trains="everything",
    batch_invariant=True,
    claim="At equal cost the loss falls with granularity, by a power law.",
    evidence="docs/results/claims.md",
    kind="study",
)
