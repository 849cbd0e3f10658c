"""EmbedLLM: every model is a vector; what it does on a prompt follows from its product with the prompt's projection.

Equation: logit(good) = w . (p_m * (x W + c)) + b, with noise on x while training.
Shapes: models [M, W], projections [N, W].
Trains: projection, the models' vectors and the classifier.
Siblings: IRT-Router has a difficulty beside the product; Tryage is a network without vectors of models.
Source: Zhuang, Wu, Wen, Li, Jiao, Ramchandran, 2024, "EmbedLLM: Learning Compact Representations of Large Language
    Models", arXiv:2410.02223.
Differences: compared with the authors' code. Two outputs of the classifier are one logit here; batches are of prompts
    with all their models' answers; width and rate fit thousands of answers, not millions.
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import ModelVectors
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def embedllm(
    width: int = 64, noise: float = 0.05, epochs: int = 20, cost_weight: float = 0.0, encoder: str = "tfidf"
) -> Routing:
    """EmbedLLM's factorisation.

    Args:
        width: of the models' vectors.
        noise: deviation of what is added to a prompt's vector in training.
        epochs: of training.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, `api:MODEL@URL`, or a sentence-transformers model.
    """
    return Routing(ModelVectors(width, noise, epochs, encoder=named_encoder(encoder)), Weights(cost_weight))


RECIPE = Recipe(
    slug="embedllm",
    title="EmbedLLM",
    source="Zhuang et al., 2024, EmbedLLM: Learning Compact Representations of Large Language Models, arXiv:2410.02223",
    compose=embedllm,
    trains="router",
    batch_invariant=True,
    claim="Routes among more than a hundred models better than a kNN of prompts does, at a lower cost per decision.",
    evidence="tests/lm/test_field_estimators.py",
    needs=("training",),
    kind="lm",
)
