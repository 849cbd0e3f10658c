"""Tryage: a network predicts how well each model will do on the prompt; flags weigh what else matters.

Equation: model = argmin_m  L_m(x) + sum_j lambda_j C_j(m), L the predicted loss and C_j constraints such as size,
    recency, price or delay.
Shapes: one predicted score per prompt and model, [N, M].
Trains: the network.
Siblings: CARROT is the same decision with kNN estimates.
Source: Hari, Thomson, 2023, "Tryage: Real-time, intelligent Routing of User Prompts to Large Language Models",
    arXiv:2308.11601.
Recorded answers: not better than the look-up by data set (docs/results/lm.md).
Differences: the perceptive router is a one-hidden-layer network over a frozen encoder, where the paper fine-tunes a
    small BERT; the constraints are cost and delay. It predicts scores, not losses.
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import Perceptron
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def tryage(
    hidden: int = 64,
    epochs: int = 15,
    cost_weight: float = 0.0,
    delay_weight: float = 0.0,
    encoder: str = "tfidf",
) -> Routing:
    """Tryage.

    Args:
        hidden, epochs: of the network.
        cost_weight: quality that one unit of the currency is worth.
        delay_weight: quality that one second is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    estimator = Perceptron(hidden, epochs, encoder=named_encoder(encoder))
    return Routing(estimator, Weights(cost_weight, delay_weight))


RECIPE = Recipe(
    slug="tryage",
    title="Tryage",
    source="Hari and Thomson, 2023, Tryage: Real-time, intelligent Routing of User Prompts to Large Language Models, "
    "arXiv:2308.11601",
    compose=tryage,
    trains="router",
    batch_invariant=True,
    claim="On simulated models, names the best of six for a prompt far above chance (50.9 % in the paper, where "
    "language models when asked reach 23.6 %), and its flag for cost moves along the front in one direction.",
    evidence="docs/results/claims.md",
    needs=("training",),
    kind="lm",
)
