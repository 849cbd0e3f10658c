"""FrugalGPT: models in a chain, a learned scorer of answers between them, order and thresholds found under a budget.

Equation: maximise the mean score of the first answer with g(q, a) >= threshold of its model, within a mean cost.
Shapes: scores of answers [N, M]; an order of at most `longest` models, one threshold for each but the last.
Trains: the scorer, on recorded answers; order and thresholds by search.
Siblings: a `Cascade` of `roster.lm.decide` has the order given and reads log-probabilities; AutoMix lets the model
    check itself.
Needs: every model's answer to every prompt, as texts.
Source: Chen, Zaharia, Zou, 2023, "FrugalGPT: How to Use Large Language Models While Reducing Cost and Improving
    Performance", arXiv:2305.05176.
Dial: the chains that are better than all cheaper ones on training prompts, with cross-fitted scores; a report and
    `roster lm tune` choose among them on validation prompts, and the gateway runs what was tuned.
Differences: the scorer is a logistic regression on both texts' vectors and a few figures of the answer, where the paper
    fine-tunes DistilBERT; the search is exact on a grid of quantiles instead of pruned and interpolated. The paper's
    prompt adaptation and answer cache are other tools' work.
"""

from __future__ import annotations

from roster.lm.cascading import Cascading
from roster.lm.frugal import AnswerScorer
from roster.recipes.recipe import Recipe


def frugalgpt(longest: int = 3, thresholds: int = 8, folds: int = 3) -> Cascading:
    """FrugalGPT's chains.

    Args:
        longest: models in a chain.
        thresholds: tried per model.
        folds: of the scorer's cross-fitting.
    """
    return Cascading(AnswerScorer(longest, thresholds, folds))


RECIPE = Recipe(
    slug="frugalgpt",
    title="FrugalGPT (cascade with a learned scorer)",
    source="Chen, Zaharia and Zou, 2023, FrugalGPT: How to Use Large Language Models While Reducing Cost and Improving "
    "Performance, arXiv:2305.05176",
    compose=frugalgpt,
    trains="router",
    batch_invariant=True,
    claim="Matches the best single model at up to 98 % less cost, or beats it by 4 % at the same cost.",
    evidence="tests/lm/test_frugal.py",
    needs=("training", "texts"),
    kind="lm",
)
