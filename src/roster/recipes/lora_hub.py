"""LoraHub: a new task is given by a few rows; which adapters it takes, and how much of each, is searched, not trained.

Equation: y = W x + (sum_e w_e scale_e B_e)(sum_e w_e A_e) x; w = argmin of loss(w) + penalty * mean |w| within
    [-bound, bound]^E.
Shapes: one w for the whole model, [E].
Trains: nothing by gradients: w is found by a random search that only asks for the loss, on the rows that are given.
Siblings: `scalearn` learns such weights by gradients; `uniform` is w = 1 / E.
Source: Huang, Liu, Lin, Pang, Du, Lin, 2023, "LoraHub: Efficient Cross-Task Generalization via Dynamic LoRA
    Composition", arXiv:2307.13269; the authors' repository is sail-sg/lorahub.
Differences: the source searches with Nevergrad's NGOpt; here it is an evolution strategy of one parent and one child,
    whose step grows by success and shrinks by failure (the one-fifth rule). The source draws 20 adapters of its library
    at random; here all take part. Averaging the updates instead of the factors (`average="updates"`) also takes
    adapters of different ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from roster.adapters.mixing import Mixing, Site
from roster.errors import RosterError
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Constant
from roster.select import All

_GROWS, _SHRINKS = 1.5, 1.5**-0.25
"""Of the step, after a success and after a failure: it stays as it is where every fifth child is better."""


def lora_hub(
    average: Literal["factors", "updates"] = "factors", bound: float = 1.5, penalty: float = 0.05, step: float = 0.3
) -> Mixing:
    """LoraHub.

    Args:
        average: what is averaged; see `LowRankExperts`.
        bound: no weight is larger than this.
        penalty: coefficient of the mean absolute weight in what is searched for.
        step: standard deviation of the first child's distance in every weight.
    """
    if not (bound > 0 and step > 0 and penalty >= 0):
        raise RosterError(f"lora-hub: bound={bound} and step={step} must be above 0, penalty={penalty} not below")

    def router(site: Site) -> Router:
        return Router(Constant(torch.zeros(site.num_experts), trains=True), All("none"))

    def find(loss: Callable[[Tensor], float], start_E: Tensor, asks: int, seed: int) -> Tensor:
        return search(lambda w_E: loss(w_E) + penalty * float(w_E.abs().mean()), start_E, asks, bound, step, seed)

    return Mixing(router, at="model", average=average, trains=frozenset({"router"}), constant="always", search=find)


def search(
    loss: Callable[[Tensor], float], start_E: Tensor, asks: int, bound: float, step: float, seed: int = 0
) -> Tensor:
    """The weights with the lowest loss that an evolution strategy of one parent and one child has found.

    Args:
        loss: asked `asks` times.
        start_E: the first parent, which is asked, too.
        asks: how often.
        bound: of the size of every weight.
        step: standard deviation of the first child's distance in every weight.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    best_E, lowest = start_E.clone(), loss(start_E)
    for _ in range(asks - 1):
        child_E = (best_E + step * torch.randn(best_E.shape, generator=generator)).clamp(-bound, bound)
        found = loss(child_E)
        better = found < lowest
        step *= _GROWS if better else _SHRINKS
        if better:
            best_E, lowest = child_E, found
    return best_E


RECIPE = Recipe(
    slug="lora-hub",
    title="LoraHub",
    source="Huang et al., 2023, LoraHub: Efficient Cross-Task Generalization via Dynamic LoRA Composition, "
    "arXiv:2307.13269",
    compose=lora_hub,
    trains="router",
    batch_invariant=True,
    claim="A few rows and no gradients compose adapters into one that comes near in-context learning on unseen tasks.",
    evidence="tests/train/test_search.py",
    needs=("training",),
)
