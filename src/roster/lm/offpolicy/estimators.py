"""What a policy would have brought on traffic that another one routed, and how far that can be believed.

A log shows what the model brought that was asked, y_nm, and nothing of the others. With e_nm, the chance with which the
log asked model m on prompt n, p_nm, the chance with which the policy would, and mu_nm, what was to be expected of it,

    w_nm   =  min(1 / e_nm, most) share_nm
    IPS    =  mean_n sum_m p_nm w_nm y_nm
    SNIPS  =  IPS / mean_n sum_m p_nm w_nm
    DR     =  mean_n sum_m p_nm (mu_nm + w_nm (y_nm - mu_nm))

DR is right when either e or mu is. Its summands do not depend on the policy, so that they can stand in for the scores
that nobody has: `doubly_robust_scores`.

Sources: Ionides, 2008, "Truncated Importance Sampling" (the cut at `most`); Swaminathan, Joachims, 2015, "The
Self-Normalized Estimator for Counterfactual Learning"; Dudik, Langford, Li, 2011, "Doubly Robust Policy Evaluation and
Learning", arXiv:1103.4601.

Shape legend: N prompts, M models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roster.lm.records import Matrix


@dataclass(frozen=True, eq=False)
class Drawn:
    """Who was asked.

    Attributes:
        share_NM: of a prompt's calls, how many went to each model; or 1 where a model was asked beside others.
        chance_NM: the chance with which the log asked it.
        most: the largest weight that a call may have.
    """

    share_NM: Matrix
    chance_NM: Matrix
    most: float = float("inf")

    @property
    def weight_NM(self) -> Matrix:
        """What each cell counts for a policy that is sure to ask its model; 0 where nobody was asked."""
        asked_NM = self.share_NM > 0
        inverse_NM = 1 / np.where(asked_NM, np.maximum(self.chance_NM, 1e-300), 1.0)
        return np.asarray(np.where(asked_NM, np.minimum(inverse_NM, self.most) * self.share_NM, 0.0))

    @property
    def supported_NM(self) -> Matrix:
        """1 where the log asks a model often enough for its weight not to be cut, else 0."""
        return np.asarray((self.chance_NM >= 1 / self.most) & (self.chance_NM > 0), dtype=float)


@dataclass(frozen=True)
class Support:
    """How far a log carries a policy.

    Attributes:
        prompts: N.
        effective: how many prompts of the policy's own traffic would say as much: (sum w)^2 / sum w^2.
        heaviest: the largest weight of a prompt.
        overlap: the share of the policy's choices that the log makes too, often enough.
    """

    prompts: int
    effective: float
    heaviest: float
    overlap: float


def ips(policy_NM: Matrix, value_NM: Matrix, drawn: Drawn) -> float:
    """By inverse propensity; cells that nobody measured may be NaN."""
    return float((policy_NM * drawn.weight_NM * _known(value_NM)).sum(1).mean())


def self_normalised(policy_NM: Matrix, value_NM: Matrix, drawn: Drawn) -> float:
    """IPS over the mean weight, so that it lies among the values; NaN where the log makes none of the choices."""
    weight = float((policy_NM * drawn.weight_NM).sum(1).mean())
    return ips(policy_NM, value_NM, drawn) / weight if weight else float("nan")


def doubly_robust(policy_NM: Matrix, value_NM: Matrix, drawn: Drawn, expected_NM: Matrix) -> float:
    """IPS of what was not to be expected, added to what was."""
    return float((policy_NM * doubly_robust_scores(value_NM, drawn, expected_NM)).sum(1).mean())


def doubly_robust_scores(value_NM: Matrix, drawn: Drawn, expected_NM: Matrix) -> Matrix:
    """What stands in for every cell: right on average, and for no single prompt; often outside [0, 1]."""
    surprise_NM = np.where(np.isfinite(value_NM), _known(value_NM) - expected_NM, 0.0)
    return np.asarray(expected_NM + drawn.weight_NM * surprise_NM)


def support(weight_N: Matrix, supported_N: Matrix) -> Support:
    """Of a policy whose prompts have these weights and this share of choices that the log makes too."""
    square = float((weight_N**2).sum())
    effective = float(weight_N.sum() ** 2 / square) if square else 0.0
    return Support(len(weight_N), effective, float(weight_N.max(initial=0.0)), float(supported_N.mean()))


def _known(value_NM: Matrix) -> Matrix:
    return np.where(np.isfinite(value_NM), value_NM, 0.0)
