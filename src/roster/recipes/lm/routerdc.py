"""RouterDC: prompts and models in one space, trained by two contrastive losses.

Equation: s_m = cos(f(x), k_m) / temperature; sample-model loss: for each of a prompt's best models
    -log softmax of its similarity against those of the worst models; sample-sample loss: the same for prompts of one
    cluster against the rest of the batch.
Shapes: f(x) [N, W], keys [M, W].
Trains: the map f and the keys.
Siblings: Tryage regresses scores where RouterDC ranks models.
Source: Chen, Jiang, Lin, Kwok, Zhang, 2024, "RouterDC: Query-Based Router by Dual Contrastive Learning for Assembling
    Large Language Models", arXiv:2409.19886.
Recorded answers: below plainer routers and the look-up by data set (docs/results/lm.md).
Differences: f is a linear map over a frozen encoder, where the paper fine-tunes mDeBERTa-v3; clusters are made from the
    encoder's vectors, and the rate fits a linear map. Positives (the three best models, unless they score 0), negatives
    (the three worst, unless above 0.5), both losses and the decision (the most similar model) are those of the authors'
    code; a prompt is not drawn as its own positive. One logistic curve turns similarity into an expected score, so that
    any rule can weigh it against cost.
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import Contrastive
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def routerdc(
    width: int = 64, pull: float = 1.0, epochs: int = 10, cost_weight: float = 0.0, encoder: str = "tfidf"
) -> Routing:
    """RouterDC on a frozen encoder.

    Args:
        width: of the common space.
        pull: weight of the sample-sample loss.
        epochs: of training.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    estimator = Contrastive(width, pull=pull, epochs=epochs, encoder=named_encoder(encoder))
    return Routing(estimator, Weights(cost_weight))


RECIPE = Recipe(
    slug="routerdc",
    title="RouterDC",
    source="Chen et al., 2024, RouterDC: Query-Based Router by Dual Contrastive Learning for Assembling Large Language "
    "Models, arXiv:2409.19886",
    compose=routerdc,
    trains="router",
    batch_invariant=True,
    claim="On simulated models, better than cross-entropy to the best model and than the best single model, on other "
    "prompts and on a shifted mix (+2.76 % in distribution and +1.90 % outside over other routers in the paper).",
    evidence="docs/results/claims.md",
    needs=("training",),
    kind="lm",
)
