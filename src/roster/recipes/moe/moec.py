"""MoEC: experts in clusters that a loss keeps alike inside and different outside, with dropout inside each cluster.

Equation: top-k of softmax(W x); plus a * within / (within + between), the share of the routing probabilities' variance
that lies inside the clusters, plus the load-balancing loss. In training a share of each cluster is off duty.
Shapes: router [E, D].
Trains: everything together.
Siblings: GShard has neither clusters nor dropout.
Source: Xie et al., 2022, "MoEC: Mixture of Expert Clusters", arXiv:2207.09094.
Differences: the variances enter as a share (see `roster.balance.cluster_variance`); who is off duty is drawn for every
token and not once a step, so that every expert learns from every batch.
"""

from __future__ import annotations

from roster.balance import ClusterVariance, LoadBalancing
from roster.errors import RosterError
from roster.moe.layout import Layout, Place
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Linear
from roster.select import ClusterDropout, TopK


def moec(
    num_experts: int = 8,
    k: int = 2,
    clusters: int = 2,
    dropout: float = 0.25,
    cluster: float = 0.01,
    balance: float = 0.01,
) -> Layout:
    """Clustered experts.

    Args:
        num_experts: E, a multiple of `clusters`.
        k: experts per token.
        clusters: how many; experts of one cluster follow each other.
        dropout: share of each cluster that is off duty in training, rounded down to whole experts.
        cluster: weight of the cluster loss.
        balance: weight of the load-balancing loss.
    """
    if clusters < 1 or num_experts % clusters:
        raise RosterError(f"recipe 'moec': num_experts={num_experts} do not divide into clusters={clusters}")
    cluster_of = tuple(expert * clusters // num_experts for expert in range(num_experts))

    def router(place: Place) -> Router:
        left = num_experts - clusters * int(dropout * (num_experts // clusters))
        place.check_choice(k, left)
        select = ClusterDropout(TopK(k), cluster_of, dropout)
        balancing = [ClusterVariance(cluster_of, cluster), LoadBalancing(balance)]
        return Router(Linear(place.width, num_experts), select, balancing)

    return Layout.of(router, num_experts, k, kinds=cluster_of)


RECIPE = Recipe(
    slug="moec",
    title="MoEC (mixture of expert clusters)",
    source="Xie et al., 2022, MoEC: Mixture of Expert Clusters, arXiv:2207.09094",
    compose=moec,
    trains="everything",
    batch_invariant=True,
    claim="With little data, more experts overfit; clusters with dropout go on improving.",
    evidence="docs/results/claims.md",
    kind="moe",
)
