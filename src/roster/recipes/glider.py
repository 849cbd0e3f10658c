"""GLIDER: what each token says to the experts' gate vectors, and what the prompt as a whole says to the experts' tasks.

Equation: scores = sqrt(I) cos(x - mean x, v_e - mean v_e) + scale cos(q - m, d_e - m); softmax over the top k. The
    first term is PHATGOOSE's and differs from layer to layer; the second is one for all layers: q is the mean hidden
    state of the prompt, d_e that of expert e's example prompts, m the mean of all d_e.
Shapes: one gate vector per expert and linear layer, [E, I]; one task vector per expert, [E, D].
Trains: the gate vectors, one expert at a time, as `phatgoose` does; the task vectors come from the examples.
Siblings: `phatgoose` is `scale=0`; as `scale` grows it becomes a choice per prompt.
Source: Li et al., 2024, "Glider: Global and Local Instruction-Driven Expert Router", arXiv:2410.07172; the authors'
    repository is UNITES-Lab/glider.
Differences: the source has a language model write an instruction for each data set from three of its rows, embeds it
    with an encoder, and sets the scale per setting (100 for known tasks, 3 to 1000 for others). Here prompts are
    embedded by the base, each by itself, nothing is written, and there is one scale.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.adapters.nearness import Nearness
from roster.recipes.needs import check_examples
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Cosine, Decided, Total
from roster.select import TopK


def glider(top_k: int = 2, scale: float = 10.0, layer: int | None = None) -> Mixing:
    """GLIDER.

    Args:
        top_k: experts per token and layer.
        scale: of the global term; the local one lies between -sqrt(I) and sqrt(I), mostly near zero.
        layer: behind which block prompts are read, counted from 1; None for the last.
    """

    def router(site: Site) -> Router:
        local = Cosine(torch.zeros(site.num_experts, site.width), scale=math.sqrt(site.width), center=True)
        return Router(Total([local, Decided(site.num_experts)], [1.0, scale]), TopK(top_k))

    def prepare(part: Any, site: Site, surroundings: Surroundings) -> None:
        from roster.library.gates import read_gates

        if isinstance(part, Nearness):
            check_examples(surroundings.library, "glider")
            part.learn_experts(surroundings, "glider")
            return
        local = part.score.parts[0]
        for row_D, name, update in zip(cast(Tensor, local.vectors_ED), site.experts, site.updates, strict=True):
            if update is not None:
                row_D.copy_(read_gates(surroundings.library[name])[site.name])

    return Mixing(
        router,
        at="linear",
        head=lambda whole: Nearness(whole.width, "experts", "cosine", layer=layer),
        head_reads="prompt",
        prepare=prepare,
    )


RECIPE = Recipe(
    slug="glider",
    title="GLIDER",
    source="Li et al., 2024, Glider: Global and Local Instruction-Driven Expert Router, arXiv:2410.07172",
    compose=glider,
    trains="router",
    batch_invariant=True,
    claim="With a global term beside token gates, known tasks go to their own experts, and unseen ones lose nothing.",
    evidence="tests/recipes/test_prompts_decide.py",
    needs=("gates", "examples"),
)
