"""Self-contrast: decoding that subtracts what the mixture says with second-choice experts; see `roster.moe.contrast`.

Trains: nothing.
Source: Shi et al., 2024, "Unchosen Experts Can Contribute Too", arXiv:2405.14507.
Differences: see `roster.moe.contrast`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from roster.recipes.recipe import Recipe


def self_contrast(beta: float = 0.5, alpha: float = 0.1, rank: int = 2) -> Callable[..., Any]:
    """`(model, input_ids, attention_mask=None, **for generate) -> what generate returns`.

    Args:
        beta: strength of the contrast.
        alpha: share of the best token's probability below which a token is not plausible.
        rank: of the expert that the weak pass uses.
    """
    # Imported at use: recipes are listed without transformers.
    from roster.moe.contrast import generate
    from roster.select import Rank

    return functools.partial(generate, beta=beta, alpha=alpha, weak=Rank(rank))


RECIPE = Recipe(
    slug="scmoe-self-contrast",
    title="Self-contrast",
    source="Shi et al., 2024, Unchosen Experts Can Contribute Too, arXiv:2405.14507",
    compose=self_contrast,
    trains="nothing",
    batch_invariant=True,
    claim="Decoding by self-contrast answers more questions right than greedy decoding of the same mixture, and than "
    "activating more experts.",
    evidence="docs/results/claims.md",
    kind="study",
)
