"""The queue against what is known of queues."""

import numpy as np
import pytest

from roster.errors import RosterError
from roster.lm.load.arrivals import poisson
from roster.lm.load.queue import serve

COUNT = 40_000


@pytest.mark.parametrize(("kind", "share"), [("M/M/1", 1.0), ("M/D/1", 0.5)])
@pytest.mark.parametrize("load", [0.3, 0.6])
def test_mean_delay_is_what_theory_says(kind, share, load):
    rng = np.random.default_rng(0)
    arrival_N = poisson(COUNT, load, rng)
    seconds_N = rng.exponential(1.0, COUNT) if kind == "M/M/1" else np.ones(COUNT)
    served = serve(arrival_N, seconds_N[:, None], lambda n, load: 0)
    # Pollaczek and Khinchine: waiting = load / (1 - load) x (1 + squared coefficient of variation) / 2.
    assert served.delay_N.mean() == pytest.approx(1 + share * load / (1 - load), rel=0.05)


def test_what_a_scheduler_sees():
    seen = []

    def first(n, load):
        seen.append((load.count_M.tolist(), load.work_M.tolist()))
        return 0

    served = serve(np.array([0.0, 1.0, 3.0]), np.full((3, 2), 2.5), first)
    assert seen == [([0, 0], [0.0, 0.0]), ([1, 0], [1.5, 0.0]), ([1, 0], [2.0, 0.0])]
    np.testing.assert_allclose(served.delay_N, [2.5, 4.0, 4.5])


def test_queues_that_cannot_be():
    with pytest.raises(RosterError, match="in order"):
        serve(np.array([1.0, 0.0]), np.ones((2, 1)), lambda n, load: 0)
    with pytest.raises(RosterError, match="more than 0"):
        serve(np.array([0.0]), np.zeros((1, 1)), lambda n, load: 0)
