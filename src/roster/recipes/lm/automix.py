"""AutoMix: a small model checks its own answer; a meta-verifier says whether the large one is worth asking.

Equation: ask the large model in the bins of the checks' share where, with chances of "needy", "good" and "hopeless" p,
    the value of asking, p . (-100, -100, -r - 100), exceeds that of keeping, p . (-r, 0, -r - 1).
Shapes: chances [bins + 1, 3].
Trains: nothing by gradient; categories are counted per bin.
Siblings: FrugalGPT learns to judge answers from their texts; a `Cascade` reads log-probabilities.
Source: Aggarwal, Madaan, Anand, Potharaju, Mishra, Zhou, et al., 2023, "AutoMix: Automatically Mixing Language Models",
    arXiv:2310.12963.
Differences: bins, categories and values as in the authors' code; a check is one question without worked examples. Bins
    that training never saw are as the whole, where the code never asks there.
"""

from __future__ import annotations

from roster.lm.verification import MetaVerifier
from roster.recipes.recipe import Recipe


def automix(bins: int = 8, good: float = 0.5) -> MetaVerifier:
    """A meta-verifier to be fit; `roster.lm.verification.self_verified` makes the shares.

    Args:
        bins: steps of the share of agreeing checks.
        good: score from which an answer is right.
    """
    return MetaVerifier(bins, good)


RECIPE = Recipe(
    slug="automix",
    title="AutoMix (self-verification)",
    source="Aggarwal et al., 2023, AutoMix: Automatically Mixing Language Models, arXiv:2310.12963",
    compose=automix,
    trains="router",
    batch_invariant=True,
    claim="At equal quality over 50 % less cost than other cascades, FrugalGPT among them.",
    evidence="tests/lm/test_frugal.py",
    needs=("training",),
    kind="study",
)
