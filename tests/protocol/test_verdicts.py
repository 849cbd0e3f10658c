"""The rules by which paired runs become a verdict, against known intervals and by simulation."""

import numpy as np
import pytest
from scipy import stats

from evidence.protocol.declaration import Declaration, Pairs, Statistic
from evidence.protocol.verdict import judge
from roster.arena.paired import Gain, gain
from roster.errors import RosterError

# Student's own sleep data; R's t.test(extra ~ group, paired = TRUE) prints this interval.
DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
R_INTERVAL = (-2.4598858, -0.7001142)


def declaration(seeds=10, better="lower", effect=0.1, asks="better", **more):
    names = {"ours": "", "theirs": "", "without": "", "planted": "", "plain": ""}
    pairs = Pairs("ours", "theirs", "without", "planted", "plain")
    fields = {"slug": "made-up", "version": 1, "claim": "", "ground": "", "budget": "", "contenders": names}
    return Declaration(**fields, pairs=pairs, statistic=Statistic("", better, effect, asks), seeds=seeds, **more)


def runs(ours, theirs, without, planted, plain, spread=0.02, seeds=10):
    """Values around these means, with a noise that the pairs do not share."""
    rng = np.random.default_rng(0)
    names = ("ours", "theirs", "without", "planted", "plain")
    means = dict(zip(names, (ours, theirs, without, planted, plain), strict=True))
    found = {name: (mean + spread * rng.standard_normal(seeds)).tolist() for name, mean in means.items()}
    return found, (ours + spread * rng.standard_normal(seeds)).tolist()


def test_the_interval_is_that_of_a_paired_t_test():
    found = gain(DRUG_1, DRUG_2, "higher")
    assert (found.low, found.high) == pytest.approx(R_INTERVAL, abs=1e-7)
    turned = gain(DRUG_1, DRUG_2, "lower")
    assert (turned.low, turned.high) == pytest.approx((-R_INTERVAL[1], -R_INTERVAL[0]), abs=1e-7)
    for seed in range(20):
        ours, theirs = np.random.default_rng(seed).standard_normal((2, 12))
        interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        assert (gain(ours, theirs, "higher").low, gain(ours, theirs, "higher").high) == pytest.approx(interval)


def test_from_twenty_pairs_on_the_interval_follows_the_skew():
    skewed = np.random.default_rng(1).exponential(size=40)
    found, normal = gain(skewed, np.zeros(40), "higher"), stats.ttest_1samp(skewed, 0).confidence_interval(0.95)
    assert found.high - found.mean > found.mean - found.low, "longer on the side of the tail"
    assert (found.low > normal.low, found.high > normal.high) == (True, True), "which an even interval does not know of"
    assert found == gain(skewed, np.zeros(40), "higher"), "the same at every call"


def test_a_difference_without_spread_is_a_point():
    assert gain([0.3] * 5, [0.1] * 5, "higher") == Gain(
        pytest.approx(0.2), pytest.approx(0.2), pytest.approx(0.2), 0.0, 5
    )
    assert gain([1.0] * 5, [1.0] * 5, "lower").against(0.0) == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "threshold", "word"),
    [
        (0.2, 0.4, 0.1, "shown"),
        (-0.4, -0.2, 0.1, "refuted"),  # beyond, on the other side
        (-0.02, 0.05, 0.1, "refuted"),  # too small to count
        (0.05, 0.2, 0.1, "undecided"),
        (-0.05, 0.02, -0.1, "shown"),  # no worse
        (-0.3, -0.2, -0.1, "refuted"),
        (-0.2, 0.02, -0.1, "undecided"),
    ],
)
def test_the_three_words(low, high, threshold, word):
    assert Gain((low + high) / 2, low, high, 0.1, 10).against(threshold) == word


def test_a_claim_is_shown_only_when_the_credited_part_makes_the_difference():
    said = judge(declaration(), *runs(0.5, 1.0, 1.0, 0.5, 1.0))
    assert (said.verdict, said.broken) == ("shown", False)
    said = judge(declaration(), *runs(0.5, 1.0, 0.5, 0.5, 1.0))
    assert said.verdict == "refuted"
    assert "without the part" in said.reason
    said = judge(declaration(), *runs(0.5, 1.0, 0.6, 0.5, 1.0, spread=0.1))
    assert said.verdict == "undecided"
    assert "cause" in said.reason
    assert judge(declaration(), *runs(1.5, 1.0, 1.0, 0.5, 1.0)).verdict == "refuted"


def test_no_worse_is_judged_with_a_handicap_as_its_control():
    asked = declaration(asks="no worse")
    assert judge(asked, *runs(1.0, 1.0, 1.5, 1.5, 1.0)).verdict == "shown"
    assert judge(asked, *runs(1.3, 1.0, 1.5, 1.5, 1.0)).verdict == "refuted"
    blind = judge(asked, *runs(1.0, 1.0, 1.5, 1.0, 1.0))
    assert blind.broken
    assert blind.verdict == "undecided"


def test_a_check_that_cannot_see_or_sees_ghosts_is_no_evidence():
    blind = judge(declaration(), *runs(0.5, 1.0, 1.0, 1.0, 1.0))
    assert blind.broken
    assert blind.verdict == "undecided"
    assert "planted" in blind.reason
    values, _ = runs(0.5, 1.0, 1.0, 0.5, 1.0)
    ghost = judge(declaration(), values, [value + 0.5 for value in values["ours"]])
    assert ghost.broken
    assert ghost.verdict == "undecided"
    assert "itself" in ghost.reason


def test_a_run_that_lacks_or_gives_no_number_settles_nothing():
    values, again = runs(0.5, 1.0, 1.0, 0.5, 1.0)
    assert "9 of 10" in judge(declaration(), values, again[:-1]).reason
    values["theirs"][3] = float("nan")
    assert judge(declaration(), values, again).broken


def test_the_number_of_seeds_that_would_settle_it_does():
    unsure = gain(0.12 + 0.3 * np.random.default_rng(2).standard_normal(10), np.zeros(10), "higher")
    count = unsure.seeds_to_settle(0.1)
    half = stats.t.ppf(0.975, count - 1) * unsure.spread / count**0.5
    assert half < abs(unsure.mean - 0.1) < half * 1.1, "enough, and hardly more than that"
    assert Gain(0.1, 0.0, 0.2, 0.1, 10).seeds_to_settle(0.1) is None


@pytest.mark.parametrize("noise", ["standard_normal", "standard_exponential"])
def test_a_method_is_seldom_told_from_itself(noise):
    """Over 1,000 checks of which nothing is true at most 5 % of the nulls leave zero out, plus four deviations of such
    a share; on a skewed statistic too, for the difference of two draws is even.
    """
    draws, rng = 1000, np.random.default_rng(3)
    values = getattr(rng, noise)((draws, 2, 10))
    found = [gain(ours, again, "lower") for ours, again in values]
    apart = np.mean([each.low > 0 or each.high < 0 for each in found])
    assert 0.02 < apart < 0.05 + 4 * (0.05 * 0.95 / draws) ** 0.5
    assert np.mean([each.low > 0.1 for each in found]) <= 0.025


def test_declarations_that_could_not_be_judged_are_refused():
    with pytest.raises(RosterError, match="smallest effect"):
        declaration(effect=0.0)
    with pytest.raises(RosterError, match="3 seeds"):
        declaration(seeds=3)
    made = declaration()
    with pytest.raises(RosterError, match="no contender is called 'nobody'"):
        Declaration(**{**vars(made), "pairs": Pairs("ours", "nobody", "without", "planted", "plain")})
