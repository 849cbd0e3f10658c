"""MoCLE: prompts fall into clusters; a cluster has one expert of its own at every layer, beside a universal one.

Equation: c = the cluster of the prompt; p = softmax(W v_c / temperature); i = argmax p;
    y = W x + p_i scale_i B_i A_i x + (1 - p_i) scale_u B_u A_u x, u the universal expert. One choice per row and layer.
Shapes: at every linear layer a vector per cluster, [C, V], and a gate [E, V]; centres of clusters [C, D], once.
Trains: vectors, gates and experts together; the centres come from the example prompts by k-means.
Siblings: `milora-prompt-routed` reads the prompt itself at every block; `auto` knows experts, not clusters.
Source: Gou et al., 2023, "Mixture of Cluster-conditional LoRA Experts for Vision-language Instruction Tuning",
    arXiv:2312.12379; the authors' repository is gyhdog99/mocle.
Differences: prompts are embedded by the base (mean hidden state behind one block), not by a sentence encoder, and
    k-means runs on the example prompts of the cards; with fewer of them than clusters there are fewer clusters. Where
    no adapter is named as the universal one, the mean of all stands for it. Noise is drawn once per row.
Serving: a cluster's mixture is one plain LoRA; `roster.adapters.exporting.export_clusters` writes one PEFT adapter per
    cluster, exactly, for engines that serve adapters by name.
"""

from __future__ import annotations

from typing import Any

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.adapters.nearness import Nearness
from roster.errors import RosterError, nearest
from roster.recipes.needs import check_examples
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import ByCluster
from roster.select import Universal


def mocle(
    clusters: int = 16,
    universal: str | None = None,
    temperature: float = 0.1,
    noise: float = 0.1,
    width: int = 384,
    layer: int | None = None,
    train_experts: bool = True,
) -> Mixing:
    """Mixture of cluster-conditional LoRA experts.

    Args:
        clusters: C, at most.
        universal: name of the expert that always serves; None for the mean of all.
        temperature: of the softmax over the experts.
        noise: standard deviation of what is added to the gate's scores while training.
        width: V, of a cluster's vector.
        layer: behind which block prompts are read, counted from 1; None for the last.
        train_experts: False trains only the gates.
    """
    if clusters < 1:
        raise RosterError(f"mocle: there must be at least 1 cluster, not {clusters}")

    def router(site: Site) -> Router:
        if universal is not None and universal not in site.experts:
            raise RosterError(f"mocle: no expert is called {universal!r}: {nearest(universal, site.experts)}")
        always = None if universal is None else site.experts.index(universal)
        return Router(ByCluster(clusters, width, site.num_experts), Universal(always, temperature, noise))

    def prepare(part: Any, site: Site, surroundings: Surroundings) -> None:
        if isinstance(part, Nearness):
            check_examples(surroundings.library, "mocle")
            part.learn_clusters(surroundings, clusters, "mocle")

    return Mixing(
        router,
        at="linear",
        head=lambda whole: Nearness(whole.width, "clusters", "nearest", layer=layer),
        head_reads="prompt",
        prepare=prepare,
        trains=frozenset({"router", "experts"} if train_experts else {"router"}),
    )


RECIPE = Recipe(
    slug="mocle",
    title="MoCLE",
    source="Gou et al., 2023, Mixture of Cluster-conditional LoRA Experts for Vision-language Instruction Tuning, "
    "arXiv:2312.12379",
    compose=mocle,
    trains="router and experts",
    batch_invariant=True,
    claim="Experts by cluster beat one LoRA where tasks conflict, and the universal expert carries unseen ones.",
    evidence="tests/recipes/test_prompts_decide.py",
    needs=("examples", "training"),
)
