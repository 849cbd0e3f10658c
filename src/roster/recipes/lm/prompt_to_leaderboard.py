"""Prompt-to-leaderboard: a rating of every model for the very prompt, learned from who beat whom.

Equation: with s = exp(rating) and t = exp(eta(x)) + 1, P(i beats j) = s_i / (s_i + t s_j + 1), P(both are bad) =
    1 / (1 + s_i + s_j), the rest a tie; a logistic curve over the rating gives the expected score.
Shapes: ratings [N, M], one eta per prompt.
Trains: a linear head on the vectors, by maximum likelihood over all pairs.
Siblings: `lm-elo` has one leaderboard for all prompts.
Source: Frick, Chen, Tennyson, Li, Chiang, Angelopoulos, Stoica, 2025, "Prompt-to-Leaderboard", arXiv:2502.14855.
Differences: the loss is that of the authors' code ("bag"). There a language model is fine-tuned on millions of votes;
    here the encoder is frozen and votes are made from recorded scores.
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import Leaderboard
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def prompt_to_leaderboard(ridge: float = 3.0, cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """Prompt-to-leaderboard on a frozen encoder.

    Args:
        ridge: penalty on the head's weights.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, `api:MODEL@URL`, or a sentence-transformers model.
    """
    return Routing(Leaderboard(ridge, encoder=named_encoder(encoder)), Weights(cost_weight))


RECIPE = Recipe(
    slug="prompt-to-leaderboard",
    title="Prompt-to-leaderboard",
    source="Frick et al., 2025, Prompt-to-Leaderboard, arXiv:2502.14855",
    compose=prompt_to_leaderboard,
    trains="router",
    batch_invariant=True,
    claim="Ratings of the very prompt foretell votes better than one leaderboard, and routing by them tops it.",
    evidence="tests/lm/test_field_estimators.py",
    needs=("training",),
    kind="lm",
)
