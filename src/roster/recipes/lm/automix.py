"""AutoMix: a small model checks its own answer; a meta-verifier says whether the large one is worth asking.

Equation: ask the large model in the bins of the checks' share where, with chances of "needy", "good" and "hopeless" p,
    the value of asking, p . (-100, -100, -r - 100), exceeds that of keeping, p . (-r, 0, -r - 1).
Shapes: chances [bins + 1, 3].
Trains: nothing by gradient; categories are counted per bin.
Siblings: FrugalGPT learns to judge answers from their texts; a `Cascade` reads log-probabilities.
Needs: the share of a model's own checks that agreed with each answer, and what they cost (`checked` and `check_cost` in
    a log; `roster.lm.verification.self_verified` puts such checks). Every check is paid.
Dial: the reward, over all pairs of a model that checked itself and a dearer one. No policy of the gateway puts checks
    to a model, so that `roster lm tune` refuses it.
Source: Aggarwal, Madaan, Anand, Potharaju, Mishra, Zhou, et al., 2023, "AutoMix: Automatically Mixing Language Models",
    arXiv:2310.12963.
Differences: bins, categories and values as in the authors' code; a check is one question without worked examples. Bins
    that training never saw are as the whole, where the code never asks there.
"""

from __future__ import annotations

from roster.lm.cascading import Cascading
from roster.lm.self_checks import SelfChecks
from roster.recipes.recipe import Recipe


def automix(bins: int = 8, good: float = 0.5) -> Cascading:
    """AutoMix's pairs of models.

    Args:
        bins: steps of the share of agreeing checks.
        good: score from which an answer is right.
    """
    return Cascading(SelfChecks(bins, good))


RECIPE = Recipe(
    slug="automix",
    title="AutoMix (self-verification)",
    source="Aggarwal et al., 2023, AutoMix: Automatically Mixing Language Models, arXiv:2310.12963",
    compose=automix,
    trains="router",
    batch_invariant=True,
    claim="At equal quality over 50 % less cost than other cascades, FrugalGPT among them.",
    evidence="tests/lm/test_frugal.py",
    needs=("training", "checks"),
    kind="lm",
)
