"""Models and adapters merged into one: each composes to `(models, out, base=None, data=(), **settings) -> out`.

`roster merge` runs the same, streamed from disk to disk; what must be in memory meanwhile, its `--plan` says.

- model-breadcrumbs: of each row of a difference the largest entries go, the next stay, the rest go.
- fisher: each weight is the mean by the Fisher information of each model's own texts.
- regmean: linear layers answer as near as they can to every model on its own texts.
- adamerging: coefficients of task vectors by the entropy of answers on texts without answers.
- atlas: coefficients of task vectors, one for each tensor or part, by a few examples.
- pem-arithmetic: adapters added, negated and compared, A and B apart.
- pamal: a member a task; weighted means of the members are the front.
- palora: a model and an adapter a task; weighted adapters are the front. Takes no models, but `base`.

Trains: coefficients (adamerging, atlas), whole models (pamal, palora); else nothing.
Source: see each recipe.
Differences: see `roster.merge.breadcrumbs`, `.fisher`, `.regmean`, `.adamerging`, `.atlas`, `.pem_arithmetic`,
`.pamal`, `.palora`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

from roster.recipes.recipe import Recipe


def _merged(method: str, **options: Any) -> Callable[..., Any]:
    def run(models: Sequence[str], out: str, base: str | None = None, data: Sequence[str] = (), **settings: Any) -> Any:
        # By name and at use: merging stands above the recipes, and they are listed without torch.
        room = importlib.import_module("roster.merge.running")
        return room.merge_models(method, models, out, base=base, data=data, **{**options, **settings})

    return run


def model_breadcrumbs(beta: float = 0.2, gamma: float = 0.1, weight: float = 0.4) -> Callable[..., Any]:
    """Model Breadcrumbs, ranked within rows.

    Args:
        beta: share of a row that stays.
        gamma: share of a row that goes at the top.
        weight: of every difference.
    """
    return _merged("model-breadcrumbs", beta=beta, gamma=gamma, weight=weight)


def fisher(floor: float = 1e-6, labels: Literal["sampled", "data"] = "sampled") -> Callable[..., Any]:
    """Fisher-weighted averaging.

    Args:
        floor: of the information, relative to its root mean square.
        labels: "sampled" from the model, or of the "data".
    """
    return _merged("fisher", floor=floor, labels=labels)


def regmean(reduction: float = 0.9) -> Callable[..., Any]:
    """RegMean.

    Args:
        reduction: what entries off the diagonal are multiplied by.
    """
    return _merged("regmean", reduction=reduction)


def adamerging(steps: int = 500, rate: float = 1e-3, start: float = 0.3) -> Callable[..., Any]:
    """AdaMerging.

    Args:
        steps: of Adam.
        rate: of it.
        start: every coefficient before.
    """
    return _merged("adamerging", steps=steps, rate=rate, start=start)


def atlas(steps: int = 100, rate: float = 0.1, parts: int = 1) -> Callable[..., Any]:
    """aTLAS.

    Args:
        steps: of AdamW.
        rate: of it, at first.
        parts: of each tensor, with a coefficient each.
    """
    return _merged("atlas", steps=steps, rate=rate, parts=parts)


def pem_arithmetic(weight: float = 0.5) -> Callable[..., Any]:
    """PEM arithmetic of adapters.

    Args:
        weight: of every adapter; given as a list when it is run, each has its own.
    """
    return _merged("pem-arithmetic", weight=weight)


def pamal(steps: int = 100, rays: int = 4, order: float = 0.0) -> Callable[..., Any]:
    """Pareto manifold learning.

    Args:
        steps: of Adam.
        rays: of a step.
        order: weight of the ordering term.
    """
    return _merged("pamal", steps=steps, rays=rays, order=order)


def palora(steps: int = 100, rays: int = 5, rank: int = 4) -> Callable[..., Any]:
    """Pareto low-rank adapters.

    Args:
        steps: of Adam.
        rays: of a step.
        rank: of each adapter.
    """
    return _merged("palora", steps=steps, rays=rays, rank=rank)


def _recipe(
    slug: str, title: str, source: str, compose: Callable[..., Any], trains: Any, claim: str, evidence: str
) -> Recipe:
    return Recipe(slug, title, source, compose, trains, True, claim, f"tests/merge/{evidence}", kind="study")


RECIPES = (
    _recipe(
        "model-breadcrumbs",
        "Model Breadcrumbs",
        "Davari and Belilovsky, 2024, Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks, "
        "arXiv:2312.06795",
        model_breadcrumbs,
        "nothing",
        "Hyper-parameters found for few tasks keep working as tasks grow, where task arithmetic's do not.",
        "test_methods.py",
    ),
    _recipe(
        "fisher",
        "Fisher-weighted averaging",
        "Matena and Raffel, 2022, Merging Models with Fisher-Weighted Averaging, arXiv:2111.09832",
        fisher,
        "nothing",
        "A mean weighted by Fisher information is better than the plain mean.",
        "test_fisher.py",
    ),
    _recipe(
        "regmean",
        "RegMean",
        "Jin et al., 2023, Dataless Knowledge Fusion by Merging Weights of Language Models, arXiv:2212.09849",
        regmean,
        "nothing",
        "Linear layers merged by least squares on what they read beat the plain and the Fisher-weighted mean.",
        "test_regmean.py",
    ),
    _recipe(
        "adamerging",
        "AdaMerging",
        "Yang et al., 2024, AdaMerging: Adaptive Model Merging for Multi-Task Learning, arXiv:2310.02575",
        adamerging,
        "nothing",
        "Coefficients that lower the entropy of answers, learned without labels, beat one coefficient for all.",
        "test_adamerging.py",
    ),
    _recipe(
        "atlas",
        "aTLAS (anisotropic scaling of task vectors)",
        "Zhang et al., 2024, Knowledge Composition using Task Vectors with Learned Anisotropic Scaling, "
        "arXiv:2407.02880",
        atlas,
        "nothing",
        "A few examples learn a coefficient for each tensor that beats one for each vector, and full training.",
        "test_atlas.py",
    ),
    _recipe(
        "pem-arithmetic",
        "PEM composition (module arithmetic)",
        "Zhang et al., 2023, Composing Parameter-Efficient Modules with Arithmetic Operations, arXiv:2306.14870",
        pem_arithmetic,
        "nothing",
        "Adapters added tensor by tensor serve both their tasks, and a negated one forgets its own.",
        "test_pem_arithmetic.py",
    ),
    _recipe(
        "pamal",
        "Pareto Manifold Learning (PaMaL)",
        "Dimitriadis et al., 2023, Pareto Manifold Learning: Tackling multiple tasks via ensembles of single-task "
        "models, arXiv:2210.09759",
        pamal,
        "everything",
        "One run gives a front of solutions that beats the line between models trained apart.",
        "test_fronts.py",
    ),
    _recipe(
        "palora",
        "PaLoRA (Pareto low-rank adapters)",
        "Dimitriadis et al., 2024, Pareto Low-Rank Adapters: Efficient Multi-Task Learning with Preferences, "
        "arXiv:2407.08056",
        palora,
        "everything",
        "A front of low-rank adapters comes near that of whole members, with a small part of their parameters.",
        "test_fronts.py",
    ),
)
