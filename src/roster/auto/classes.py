"""Nearest class means, plain or whitened: the classifier of `auto`, and what cross-validation says of it.

    z = W' (f - c);  score of class k = cos(z, mean of class k's z)

c is the mean of the class means. Plain: W = 1. Whitened: W W' = S^(-1) with S the covariance within classes, shrunk by
Ledoit and Wolf's rule (2004); the nearest mean then is linear discriminant analysis, with the cosine in place of the
distance, so that one threshold serves for prompts of every length. Features that vary from item to item within every
class count little, and those that tell classes apart count much: of twenty examples each, it makes far more than plain
means do (docs/results/auto.md). A new class brings its mean and touches no other. General prompts are a class, too:
nobody's, which by convention is the last.

Shape legend: N examples, F features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_LEAST_SHRUNK = 1e-6


@dataclass(frozen=True)
class Classes:
    """A fitted classifier.

    Attributes:
        center_F: what is taken off features.
        whiten_FF: what they are multiplied by then; None for plain means.
        means_CF: unit vectors.
    """

    center_F: Tensor
    whiten_FF: Tensor | None
    means_CF: Tensor

    def scores(self, features_NF: Tensor) -> Tensor:
        """Cosines [N, C]."""
        return placed(features_NF, self.center_F, self.whiten_FF) @ self.means_CF.T


def placed(features_NF: Tensor, center_F: Tensor, whiten_FF: Tensor | None) -> Tensor:
    """Unit vectors [N, F] in which classes are compared."""
    z_NF = features_NF.float() - center_F
    return F.normalize(z_NF if whiten_FF is None else z_NF @ whiten_FF, dim=1)


def fit(features_NF: Tensor, class_N: Tensor, count: int, whiten: bool) -> Classes:
    """Fits the classifier.

    Args:
        features_NF: of the examples.
        class_N: of each.
        count: C; every class needs an example.
        whiten: whether to whiten.
    """
    features_NF = features_NF.float()
    means_CF = class_means(features_NF, class_N, count)
    center_F = means_CF.mean(0)
    whiten_FF = whitening(features_NF - means_CF[class_N]) if whiten else None
    z_CF = means_CF - center_F
    return Classes(center_F, whiten_FF, F.normalize(z_CF if whiten_FF is None else z_CF @ whiten_FF, dim=1))


def class_means(features_NF: Tensor, class_N: Tensor, count: int) -> Tensor:
    """[C, F]"""
    sums_CF = features_NF.new_zeros(count, features_NF.shape[1]).index_add_(0, class_N, features_NF)
    return sums_CF / torch.bincount(class_N, minlength=count).clamp_min(1)[:, None]


def whitening(residuals_NF: Tensor) -> Tensor:
    """W with W W' = S^(-1), [F, F], of residuals around zero; any such root gives the same cosines.

    S = (1 - a) R'R / N + a m I with m the mean variance and a by Ledoit and Wolf; as scikit-learn's `LedoitWolf` with
    `assume_centered=True`.
    """
    R_NF = residuals_NF.double()
    N, width = R_NF.shape
    S_FF = R_NF.T @ R_NF / N
    m = S_FF.diagonal().mean()
    spread = (S_FF.square().sum() - width * m * m).clamp_min(0.0)  # ||S - m I||^2
    noise = (R_NF.square().sum(1).square().sum() / N - S_FF.square().sum()).clamp_min(0.0) / N
    a = float((noise / spread).clamp(0.0, 1.0)) if spread > 0 else 1.0
    if m == 0:  # one example a class: nothing is known of what varies within
        return torch.eye(width, device=residuals_NF.device)
    eye_FF = torch.eye(width, dtype=S_FF.dtype, device=S_FF.device)
    root_FF = torch.linalg.cholesky((1 - a) * S_FF + max(a, _LEAST_SHRUNK) * m * eye_FF)
    whiten_FF: Tensor = torch.linalg.solve_triangular(root_FF, eye_FF, upper=False).T * m.sqrt()
    return whiten_FF.float()


def held_out(
    features_NF: Tensor, class_N: Tensor, fold_N: Sequence[int], count: int, whiten: bool
) -> tuple[Tensor, Tensor]:
    """Scores of each example by a classifier that has not seen its fold, [N, C], and which have one, [N].

    A class whose examples are all in one fold keeps those for itself: its examples are then scored by a mean that has
    seen them, and are marked as not held out.
    """
    fold_of_N = torch.as_tensor(list(fold_N))
    scores_NC = torch.zeros(len(class_N), count)
    out_N = torch.ones(len(class_N), dtype=torch.bool)
    for fold in sorted(set(fold_of_N.tolist())):
        test_N = fold_of_N == fold
        train_N = ~test_N
        seen_C = torch.bincount(class_N[train_N], minlength=count) > 0
        alone_N = test_N & ~seen_C[class_N]
        out_N &= ~alone_N
        fitted = fit(features_NF[train_N | alone_N], class_N[train_N | alone_N], count, whiten)
        scores_NC[test_N] = fitted.scores(features_NF[test_N])
    return scores_NC, out_N
