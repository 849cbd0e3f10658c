"""Figures of the arena: intervals against SciPy, paired differences."""

import numpy as np
import pytest
import scipy.stats

from roster.arena.evaluate import wilson
from roster.arena.paired import gain


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (3, 10), (10, 10), (290, 312)])
def test_wilson_is_scipys(correct, total):
    expected = scipy.stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert wilson(correct, total) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_paired_gains_cover_the_truth():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        a = generator.random(200) < 0.7
        b = generator.random(200) < 0.6
        found = gain(a, b)
        assert found.mean == pytest.approx(a.mean() - b.mean())
        covered += found.low <= 0.1 <= found.high
    assert covered >= 52
    same = generator.random(50) < 0.5
    nothing = gain(same, same)
    assert (nothing.mean, nothing.low, nothing.high) == (0.0, 0.0, 0.0)
    assert gain([1.0], [0.0]).low == -np.inf, "one pair says nothing"
