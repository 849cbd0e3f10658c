"""Curves, areas and intervals against cases small enough to do by hand, and against scipy."""

import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from roster.lm.curve import Played, corners, curve, interval, resamples


def test_hull_drops_what_mixing_beats():
    # (1, .2) (2, .3) (3, .8) (4, .7): the line from the first to the third passes above the second.
    made = curve(np.array([4.0, 1.0, 2.0, 3.0]), np.array([0.7, 0.2, 0.3, 0.8]))
    assert made.cost_P.tolist() == [1, 3]
    assert made.quality_P.tolist() == [0.2, 0.8]
    assert made.quality_at(2.0) == pytest.approx(0.5)
    assert made.quality_at(9.0) == pytest.approx(0.8)
    assert made.quality_at(0.5) == -np.inf
    assert made.cost_at(0.5) == pytest.approx(2.0)
    assert made.cost_at(0.9) == np.inf


def test_every_corner_can_be_reached():
    made = curve(np.array([1.0, 2.0, 4.0, 8.0]), np.array([0.2, 0.5, 0.7, 0.8]))
    assert [made.cost_at(quality) for quality in (0.2, 0.5, 0.6, 0.8)] == pytest.approx([1, 2, 3, 8])
    assert made.cost_at(0.81) == np.inf


def test_area_by_hand():
    # From 1 to 3 the mean is 0.5, from 3 to 5 it is 0.8.
    made = curve(np.array([1.0, 3.0]), np.array([0.2, 0.8]))
    assert made.aiq(1, 5) == pytest.approx((2 * 0.5 + 2 * 0.8) / 4)
    assert made.aiq(0, 1) == 0  # nothing can be had for less than the first corner


def test_steps_do_not_mix():
    made = curve(np.array([1.0, 2.0, 3.0]), np.array([0.2, 0.3, 0.8]), mixes=False)
    assert made.quality_at(2.9) == pytest.approx(0.3)
    assert made.aiq(1, 3) == pytest.approx(0.25)
    assert made.cost_at(0.25) == 2


def test_hull_agrees_with_qhull():
    rng = np.random.default_rng(0)
    cost, quality = rng.random(60), rng.random(60)
    made = curve(cost, quality)
    corners = scipy.spatial.ConvexHull(np.c_[cost, quality]).vertices
    on_hull = set(zip(cost[corners], quality[corners], strict=True))
    # The first corner is the best at the lowest cost: both hulls have it, and all the others.
    assert set(zip(made.cost_P, made.quality_P, strict=True)) <= on_hull
    assert (np.diff(made.quality_P) > 0).all()
    slopes = np.diff(made.quality_P) / np.diff(made.cost_P)
    assert (np.diff(slopes) < 0).all()
    for c, q in zip(cost, quality, strict=True):
        assert made.quality_at(c) >= q - 1e-12


def test_bootstrap_interval_agrees_with_scipy():
    rng = np.random.default_rng(1)
    score_N = rng.random(200)
    ours = interval(resamples(200, 4000, seed=2) @ score_N)
    theirs = scipy.stats.bootstrap(
        (score_N,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_played_curve_weighs_prompts():
    played = Played(np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 1.0], [2.0, 4.0]]))
    assert played.curve().quality_P.tolist() == [0.5, 1.0]
    assert played.curve().cost_P.tolist() == [1.0, 3.0]
    assert played.curve(np.array([0.0, 1.0])).quality_P.tolist() == [1.0]


@pytest.mark.parametrize("unreached", [0.0, 0.01, 0.47, 0.99, 1.0])
def test_resamples_that_do_not_reach_count_as_infinite(unreached):
    rng = np.random.default_rng(5)
    value_B = np.where(rng.random(1001) < unreached, np.inf, rng.random(1001))
    ordered = sorted(value_B)  # plain order statistics: 2.5 % and 97.5 % of 1000 steps
    assert interval(value_B) == (ordered[25], ordered[975])
    assert interval(-value_B) == (-ordered[975], -ordered[25])


def test_the_interval_is_at_least_as_wide_as_numpys_where_all_is_finite():
    value_B = np.random.default_rng(6).random(337)
    low, high = np.quantile(value_B, [0.025, 0.975])
    ours = interval(value_B)
    assert ours[0] <= low
    assert ours[1] >= high
    assert ours == pytest.approx((low, high), abs=0.01)
    assert np.isnan(interval(np.array([1.0, np.nan]))).all()


def test_a_setting_on_the_line_between_two_others_is_no_corner():
    """Mixing the two does the same, so that it is not worth having."""
    assert corners(np.array([1.0, 2.0, 3.0]), np.array([0.25, 0.5, 0.75])).tolist() == [0, 2]


def test_what_costs_nothing_is_had_for_nothing():
    made = curve(np.array([0.0, 1.0]), np.array([0.5, 0.75]))
    assert made.quality_at(0.0) == 0.5
    assert made.cost_at(0.5) == 0.0
    assert made.quality_at(np.array([0.5, 2.0])).tolist() == [0.625, 0.75]
    assert made.aiq(0, 1) == 0.625
    assert made.aiq(1, 1) == 0.75


def test_of_settings_that_do_the_same_none_at_an_edge_is_taken():
    cost_L = np.array([1.0, 1, 1, 2, 2, 2, 3, 3, 3, 2.5, 4, 4, 4])
    quality_L = np.array([0.2, 0.2, 0.2, 0.5, 0.5, 0.5, 0.6, 0.6, 0.6, 0.1, 0.9, 0.9, 0.9])
    assert corners(cost_L, quality_L).tolist() == [0, 4, 12]
    assert corners(cost_L, quality_L, mixes=False).tolist() == [0, 4, 7, 12]
