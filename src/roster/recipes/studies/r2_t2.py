"""R2-T2: routes are moved at test time, towards those of similar prompts that were answered rightly.

Equation: r <- onto the simplex (r - rate * grad_r sum_j K_j CE(f(x_j; r), y_j) / sum_j K_j) ("gradient"); r <- a r +
    (1 - a) sum_j K_j r_j / sum_j K_j ("kernel"); mean shift among the r_j ("mode"). K is a Gaussian of the distance of
    embeddings, j runs over the nearest references, r are the weights at the last token, at every router.
Shapes: a vector [E] per router; references keep one each, and an embedding [D].
Trains: nothing; every weight stays as it is, and a sample's answer does not depend on those before it.
Siblings: `gates=` gives all layers the same weights.
Source: Li, Li, Zhou, 2025, "R2-T2: Re-Routing in Test-Time for Multimodal Mixture-of-Experts", arXiv:2502.20395; the
    authors' repository is tianyi-lab/R2-T2.
Differences: built by the paper. The release moves the parameters of six attention modules instead of the routes, by
    Adam, and does not put them back between samples, so that its results depend on their order. Embeddings are the
    model's own mean last hidden states, or those of an encoder that is given, and the kernel is as wide as the median
    distance. Plain gradient steps, each followed by a projection. A vote of the neighbours' answers is the baseline
    that shows whether anything more than retrieval is gained.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

from roster.recipes.recipe import Recipe


def r2_t2(
    variant: Literal["gradient", "kernel", "mode"] = "gradient",
    neighbours: int = 5,
    steps: int = 10,
    rate: float = 0.01,
) -> Callable[..., Any]:
    """`(model, embed=None, sites=None) -> Rerouting`.

    Args:
        variant: which of the three.
        neighbours: references that count.
        steps, rate: of the gradient; the mean shift takes as many steps.
    """

    def make(model: Any, **given: Any) -> Any:
        # By name and at use: recipes are listed without transformers.
        rerouting = importlib.import_module("roster.routed.rerouting").Rerouting
        return rerouting(model, variant, neighbours, steps, rate, **given)

    return make


RECIPE = Recipe(
    slug="r2-t2",
    title="R2-T2 (re-routing at test time)",
    source="Li et al., 2025, R2-T2: Re-Routing in Test-Time for Multimodal Mixture-of-Experts, arXiv:2502.20395",
    compose=r2_t2,
    trains="nothing",
    batch_invariant=True,
    claim="Routes moved towards those of similar samples that were answered rightly win back answers, with all weights "
    "frozen.",
    evidence="tests/recipes/test_rerouting.py",
    kind="study",
)
