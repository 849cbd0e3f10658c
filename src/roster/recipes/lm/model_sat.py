"""Model-SAT: every model is its results in an aptitude test; one scorer reads them beside the prompt.

Equation: P(good) = sigmoid(a . logit(sum_t p(t | x) aptitude_{t, m}) + w . x + b), with the same a, w and b for all
    models.
Shapes: aptitudes [G, M] over G core tasks, memberships [N, G].
Trains: the scorer; a new model needs its aptitude test only.
Siblings: a k-means table reads the nearest task's result alone.
Source: Zhang, Zhan, Ye, 2025, "Capability Instruction Tuning: A New Paradigm for Dynamic LLM Routing",
    arXiv:2502.17282.
Simulated models: better than the best single model at every seed, and a model added from its test is worth 84 to 102 %
    of what training on it would bring. How well its success on one prompt is foretold is another matter: 59 to 81 % of
    the way from chance to what its true chances would tell.
Recorded answers: not better than the look-up by data set (docs/results/lm.md). On LLMRouter's nine models an added
    model is worth most of a trained one; on CRUX, whose prompts are all of one kind, its success is foretold with an
    AUROC of 0.58 to 0.69, from 50 scores as from 400.
Differences: the paper writes the aptitudes as text and lets a small language model read them; here they are numbers
    and the scorer is a logistic model. Its test has 50 tasks of 20 shots; here the core tasks are clusters of the
    training prompts, and a new model may have sat only part of them.
"""

from __future__ import annotations

from roster.lm.decide import Weights
from roster.lm.encode import encoder as named_encoder
from roster.lm.estimate import Aptitude
from roster.lm.routing import Routing
from roster.recipes.recipe import Recipe


def model_sat(tasks: int = 50, cost_weight: float = 0.0, encoder: str = "tfidf") -> Routing:
    """Model-SAT.

    Args:
        tasks: core tasks of the aptitude test, at most.
        cost_weight: quality that one unit of the currency is worth.
        encoder: `tfidf`, `minilm`, or a sentence-transformers model.
    """
    return Routing(Aptitude(tasks, encoder=named_encoder(encoder)), Weights(cost_weight))


RECIPE = Recipe(
    slug="model-sat",
    title="Model-SAT",
    source="Zhang et al., 2025, Capability Instruction Tuning: A New Paradigm for Dynamic LLM Routing, "
    "arXiv:2502.17282",
    compose=model_sat,
    trains="router",
    batch_invariant=True,
    claim="On simulated models, beats the best single model, and routes to a model of which it knows aptitude scores "
    "only about as well as to one that was there in training.",
    evidence="docs/results/claims.md",
    needs=("training",),
    kind="lm",
)
