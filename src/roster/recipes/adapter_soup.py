"""AdapterSoup: the few adapters whose prompts are most like this one are averaged, evenly.

Equation: y = W x + 1/k sum over the k nearest of scale_e B_e A_e x, nearest by cos(q - m, d_e - m): q the mean hidden
    state of the prompt, d_e that of expert e's example prompts, m the mean of all d_e. One choice for all tokens.
Shapes: one vector per expert, [E, D].
Trains: nothing.
Siblings: `auto` takes the single best, by whitened means, or nobody; `uniform` averages everybody.
Source: Chronopoulou, Peters, Fraser, Dodge, 2023, "AdapterSoup: Weight Averaging to Improve Generalization of
    Pretrained Language Models", arXiv:2302.07027.
Differences: the source chooses once for a new domain, from a sample of its texts (by a sentence encoder, or by clusters
    of texts); here each prompt chooses. It averages the weights of bottleneck adapters; here the updates of LoRAs are
    averaged, which is the mean of their functions.
"""

from __future__ import annotations

from typing import Any

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.adapters.nearness import Nearness
from roster.recipes.needs import check_examples
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Decided
from roster.select import Evenly


def adapter_soup(top_k: int = 3, layer: int | None = None) -> Mixing:
    """AdapterSoup per prompt.

    Args:
        top_k: adapters that are averaged; all where there are fewer.
        layer: behind which block prompts are read, counted from 1; None for the last.
    """

    def prepare(part: Any, site: Site, surroundings: Surroundings) -> None:
        if isinstance(part, Nearness):
            check_examples(surroundings.library, "adapter-soup")
            part.learn_experts(surroundings, "adapter-soup")

    return Mixing(
        lambda site: Router(Decided(site.num_experts), Evenly(top_k)),
        at="model",
        head=lambda whole: Nearness(whole.width, "experts", "cosine", layer=layer),
        head_reads="prompt",
        prepare=prepare,
    )


RECIPE = Recipe(
    slug="adapter-soup",
    title="AdapterSoup",
    source="Chronopoulou et al., 2023, AdapterSoup: Weight Averaging to Improve Generalization of Pretrained Language "
    "Models, arXiv:2302.07027",
    compose=adapter_soup,
    trains="nothing",
    batch_invariant=True,
    claim="For a new domain the average of the adapters of similar domains beats the single best and that of all.",
    evidence="tests/recipes/test_prompts_decide.py",
    needs=("examples",),
)
