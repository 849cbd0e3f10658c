"""AdaMerging: task arithmetic whose coefficients make the merged model sure of itself on texts without answers.

Equation: theta_b = theta_0b + sum_t clip(a_tb, 0, 1) (theta_tb - theta_0b); the coefficients, 0.3 at first, minimise
the entropy of the next token's distribution on unlabelled texts, by Adam. `block: tensor` is the authors' layer-wise
form (one coefficient for each tensor), `model` their task-wise one.

Source: Yang et al. 2024, arXiv 2310.02575, for classifiers of images; of a language model it is the mean entropy over
the places of a row, summed over files. It says nothing about right or wrong: measure the merged model afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from roster.merge.coefficients import BLOCKS, Coefficients, Training
from roster.merge.composition import Composition
from roster.merge.learned import Asked
from roster.merge.method import Method, shared


@dataclass(frozen=True)
class LessEntropy:
    """The settings of AdaMerging."""

    per_model = False

    block: str = shared("tensor", choices=BLOCKS)
    start: float = shared(0.3, 0.0, 1.0)
    steps: int = shared(500, 1, 1_000_000)
    rate: float = shared(1e-3, 0.0)
    batch: int = shared(16, 1, 1_000_000)
    seed: int = shared(0, 0, 2**31)

    def begin(self, asked: Asked) -> Coefficients:
        """See `Learner`."""
        training = Training(
            "entropy", self.block, 1, self.start, self.steps, self.rate, self.batch,
            decay=0.0, clip=0.0, cosine=False, bounded=True, seed=self.seed,
        )  # fmt: skip
        return Coefficients(asked, training, "adamerging")


METHOD = Method(
    "adamerging",
    "AdaMerging",
    "Yang et al. 2024, arXiv 2310.02575",
    Composition,
    learner=LessEntropy,
    takes="coefficients",
)
