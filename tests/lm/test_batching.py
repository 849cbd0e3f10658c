"""Batching: traces worked out by hand, a queue that theory knows, and what must hold for any trace."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roster.errors import RosterError
from roster.lm.load.arrivals import bursts, changing, poisson
from roster.lm.load.batching import Machine, round_robin, serve, shortest_queue

BY_HAND = Machine(base=1.0, prefill=0.1, decode=0.5, context=0.01, memory=100)


def run(arrivals, prompts, answers, machine=BY_HAND, instances=1, router=round_robin):
    return serve(np.array(arrivals, dtype=float), np.array(prompts), np.array(answers), router, instances, machine)


def test_two_that_arrive_together():
    served = run([0, 0], [2, 3], [2, 1])
    # Both are read at once: 1 + 0.1 x 5. Then one runs on, holding 2 + 1 tokens: 1 + 0.5 + 0.01 x 3.
    np.testing.assert_allclose(served.delay_N, [1.5 + 1.53, 1.5])


def test_one_that_arrives_during_an_iteration_waits_for_its_end():
    served = run([0, 0.5], [10, 20], [3, 1])
    # To 2 the first is read; to 5.61 the second (2) beside it (1 + 0.5 + 0.01 x 11); then the first is alone.
    np.testing.assert_allclose(served.delay_N, [2 + 3.61 + 1 + 0.5 + 0.12, 5.61 - 0.5])


def test_who_does_not_fit_waits():
    machine = Machine(1.0, 0.0, 0.0, 0.0, memory=10)
    served = run([0, 0, 0], [5, 5, 3], [3, 2, 1], machine)
    # 5 + 5 and a token each are more than 10, and nobody overtakes.
    np.testing.assert_allclose(served.delay_N, [3, 5, 4])


def test_the_youngest_is_put_back_and_reads_its_words_again():
    machine = Machine(1.0, 0.1, 0.0, 0.0, memory=10)
    served = run([0, 0], [4, 3], [4, 4], machine)
    # Held after one step: 9, and two more do not fit. The second keeps its 1 token and rereads 3 + 1 at the fourth.
    np.testing.assert_allclose(served.delay_N, [1.7 + 3, 1.7 + 3 + 1.4 + 2])


def test_room_for_one_is_the_queue_that_theory_knows():
    rng = np.random.default_rng(0)
    count, load = 40_000, 0.6
    ones_N = np.ones(count, dtype=int)
    served = run(poisson(count, load, rng), ones_N, ones_N, Machine(1.0, 0.0, 0.0, 0.0, memory=2))
    # Pollaczek and Khinchine for M/D/1.
    assert served.delay_N.mean() == pytest.approx(1 + 0.5 * load / (1 - load), rel=0.05)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=25),
    st.integers(24, 60),
)
def test_everybody_is_served_no_faster_than_alone_and_memory_holds(requests, memory):
    machine = Machine(0.5, 0.1, 0.05, 0.01, memory)
    gaps, prompts, answers = (np.array(column) for column in zip(*requests, strict=True))

    def watchful(n, now, fleet):
        for each in fleet:
            assert each.held == sum(prompts[j] + each.written(j) for j in each.running) <= memory
            assert all(each.written(j) < answers[j] for j in [*each.running, *each.waiting])
        return shortest_queue(n, now, fleet)

    served = run(np.cumsum(gaps), prompts, answers, machine, instances=2, router=watchful)
    held_NA = [np.arange(1, a) + p for p, a in zip(prompts, answers, strict=True)]
    alone_N = 0.5 + 0.1 * prompts + [float((0.5 + 0.05 + 0.01 * each).sum()) for each in held_NA]
    assert (served.delay_N >= alone_N - 1e-9).all()


def test_the_shortest_queue_is_joined():
    served = run([0, 0.1, 0.2, 0.3], [1] * 4, [50, 50, 50, 50], instances=3, router=shortest_queue)
    assert served.server_N.tolist() == [0, 1, 2, 0]


def test_traces_that_cannot_be():
    with pytest.raises(RosterError, match="in order"):
        run([1, 0], [1, 1], [1, 1])
    with pytest.raises(RosterError, match="at least 1 token"):
        run([0], [0], [1])
    with pytest.raises(RosterError, match="does not fit"):
        run([0], [60], [41])
    with pytest.raises(RosterError, match="above 0"):
        poisson(3, 0.0, np.random.default_rng(0))


def test_bursts_have_their_rates():
    times = bursts(60_000, (2.0, 30.0), (20.0, 10.0), np.random.default_rng(0))
    assert (np.diff(times) > 0).all()
    assert len(times) / times[-1] == pytest.approx((2 * 30 + 20 * 10) / 40, rel=0.1)
    # Counts per second vary far more than a Poisson process's, whose variance is its mean.
    counts = np.bincount(times.astype(int))
    assert counts.var() > 3 * counts.mean()


def test_a_rate_holds_until_its_phase_ends():
    phases = iter([(100.0, 1.0), (1.0, 50.0), (100.0, 10.0)])
    times = changing(400, lambda: next(phases), np.random.default_rng(0))
    early, middle = (times < 1).sum(), ((times >= 1) & (times < 51)).sum()
    assert 70 < early < 130
    assert 30 < middle < 75
    assert times[-1] < 51 + 10
