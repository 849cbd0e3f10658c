"""Calibration figures against scikit-learn, and by hand."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from roster.lm.calibration import auroc, brier, ece

RNG = np.random.default_rng(0)
EXPECTED = RNG.random(500).round(2)  # rounded, so that there are ties
RIGHT = (RNG.random(500) < EXPECTED).astype(float)


def test_against_scikit_learn():
    assert auroc(EXPECTED, RIGHT) == pytest.approx(roc_auc_score(RIGHT, EXPECTED))
    assert brier(EXPECTED, RIGHT) == pytest.approx(brier_score_loss(RIGHT, EXPECTED))


def test_ece_by_hand():
    # Two bins of [0, 1]: expectations 0.25 twice with outcomes 0 and 1, and 1.0 once with outcome 0.
    assert ece(np.array([0.25, 0.25, 1.0]), np.array([0.0, 1.0, 0.0]), bins=2) == pytest.approx((0.5 + 1.0) / 3)


def test_one_kind_only_has_no_auroc():
    assert np.isnan(auroc(np.array([0.1, 0.9]), np.array([1.0, 1.0])))
