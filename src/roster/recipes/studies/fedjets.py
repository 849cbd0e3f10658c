"""FedJETs: experts that clients with different data train together, each client a few of them; see
`roster.moe.federated`.

Trains: everything but the common expert.
Source: Dun et al., 2023, arXiv:2306.08586.
Differences: see `roster.moe.federated`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roster.recipes.recipe import Recipe


def fedjets() -> Callable[..., Any]:
    """`(server, clients, rounds, anchors) -> bytes per round`: trains a `roster.moe.federated.FedJets`."""
    from roster.moe.federated import federate

    return federate


RECIPE = Recipe(
    slug="fedjets",
    title="FedJETs",
    source="Dun et al., 2023, FedJETs: Efficient Just-In-Time Personalization with Federated Mixture of Experts, "
    "arXiv:2306.08586",
    compose=fedjets,
    trains="everything",
    batch_invariant=True,
    claim="Clients that nobody has seen are answered better, without training, than by one network that all clients "
    "train with as much traffic.",
    evidence="docs/training.md",
    kind="study",
)
