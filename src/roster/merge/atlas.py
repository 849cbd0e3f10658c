"""aTLAS: task vectors composed by a coefficient for each tensor (or part of one), learned on a few examples.

Equation: theta_b = theta_0b + sum_t a_tb (theta_tb - theta_0b) with b a tensor, or one of `parts` fixed random parts of
it (the authors' aTLAS x K); coefficients are 0 at first, so that training starts from the base, and unbounded. AdamW
(decay 0.1), gradients clipped to a norm of 1, rate 0.1 along a cosine.

`objective: loss` adds skills: the next-token loss, summed over the --data files (few-shot: leave out the vector of the
target itself). `forget` takes one away: loss of the second file minus loss of the first. `entropy` needs no answers;
the authors' own way without labels uses augmented images, which texts have no like of.

Source: Zhang et al. 2024, arXiv 2407.02880, for classifiers of images.
"""

from __future__ import annotations

from dataclasses import dataclass

from roster.merge.coefficients import BLOCKS, OBJECTIVES, Coefficients, Training
from roster.merge.composition import Composition
from roster.merge.learned import Asked
from roster.merge.method import Method, shared


@dataclass(frozen=True)
class FewShots:
    """The settings of aTLAS."""

    per_model = False

    objective: str = shared("loss", choices=OBJECTIVES)
    block: str = shared("tensor", choices=BLOCKS)
    parts: int = shared(1, 1, 4096)
    steps: int = shared(100, 1, 1_000_000)
    rate: float = shared(0.1, 0.0)
    batch: int = shared(8, 1, 1_000_000)
    decay: float = shared(0.1, 0.0)
    clip: float = shared(1.0, 0.0)
    seed: int = shared(0, 0, 2**31)

    def begin(self, asked: Asked) -> Coefficients:
        """See `Learner`."""
        training = Training(
            self.objective, self.block, self.parts, 0.0, self.steps, self.rate, self.batch,
            self.decay, self.clip, cosine=True, bounded=False, seed=self.seed,
        )  # fmt: skip
        return Coefficients(asked, training, "atlas")


METHOD = Method(
    "atlas",
    "aTLAS",
    "Zhang et al. 2024, arXiv 2407.02880",
    Composition,
    learner=FewShots,
    takes="coefficients",
)
