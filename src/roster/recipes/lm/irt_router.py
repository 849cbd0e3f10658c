"""IRT-Router: a model has abilities, a prompt has a difficulty and demands abilities in some proportion.

Equation: P(model m is good on x) = sigmoid(softplus(x A + a) . theta_m - (x B + b)).
Shapes: demands [N, K], difficulties [N], abilities [K, M].
Trains: abilities and the maps from text, together, on recorded scores.
Siblings: EmbedLLM multiplies without a difficulty; `lm-factorisation` finds the prompts' factors before it reads them.
Source: Song, Huang, Cheng, Gao, Xu, Zhao, Wang, Wu, 2025, "IRT-Router: Effective and Interpretable Multi-LLM Routing
    via Item Response Theory", arXiv:2506.01048.
Differences: recalled from the paper, not compared with its code. Abilities are free parameters with a normal prior,
    where the paper maps a description of each model; the warm-up by similar prompts is left out; the encoder is frozen.
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import IRT
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def irt_router(abilities: int = 4, ridge: float = 3.0, cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """IRT-Router on a frozen encoder.

    Args:
        abilities: how many.
        ridge: precision of the prior on the maps from text.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, `api:MODEL@URL`, or a sentence-transformers model.
    """
    return Routing(IRT(abilities, ridge, encoder=named_encoder(encoder)), Weights(cost_weight))


RECIPE = Recipe(
    slug="irt-router",
    title="IRT-Router",
    source="Song et al., 2025, IRT-Router: Effective and Interpretable Multi-LLM Routing via Item Response Theory, "
    "arXiv:2506.01048",
    compose=irt_router,
    trains="router",
    batch_invariant=True,
    claim="Better and cheaper than the strongest single model and than other routers, in and out of distribution.",
    evidence="tests/lm/test_field_estimators.py",
    needs=("training",),
    kind="lm",
)
