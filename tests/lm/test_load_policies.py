"""Policies by load: what they read, what they choose in plain cases, and that learning finds what is better."""

import numpy as np
import pytest

from roster.errors import RosterError
from roster.lm.encode import TfIdf
from roster.lm.load import BestEffort, Expected, LengthPredictor, WorkloadAware, cross_entropy
from roster.lm.load.arrivals import bursts, poisson
from roster.lm.load.batching import Instance, Machine, serve
from roster.lm.load.best_effort import gain
from roster.lm.load.queue import Load, Served
from roster.lm.load.workload import FEATURES, HEURISTIC_F, Trace
from roster.lm.part import pack, unpack
from roster.recipes import find


def test_the_search_finds_a_minimum_and_leaves_what_has_no_spread():
    target_P = np.array([1.0, -2.0, 5.0])
    found_P = cross_entropy(
        lambda p, n: float(((p - target_P) ** 2).sum()), np.zeros(3), np.array([2.0, 2.0, 0.0]), rounds=25
    )
    np.testing.assert_allclose(found_P, [1.0, -2.0, 0.0], atol=0.1)
    with pytest.raises(RosterError, match="elite"):
        cross_entropy(lambda p, n: 0.0, np.zeros(1), np.ones(1), points=3, elite=4)


def test_the_points_of_a_round_share_its_traces():
    rounds = []
    cross_entropy(lambda p, n: rounds.append(n) or 0.0, np.zeros(1), np.ones(1), rounds=3, points=4, elite=2)
    assert rounds == [0] * 4 + [1] * 4 + [2] * 4


EXPECTED = Expected(np.array([[0.5, 0.9]] * 4), np.array([[1.0, 8.0]] * 4), np.array([0.1, 0.1]))


def choose(policy, counts, arrivals=(0.0, 100.0, 200.0, 300.0)):
    schedule = policy.scheduler(np.array(arrivals), EXPECTED)
    return schedule(3, Load(np.array(counts), np.full(2, np.nan)))


def test_the_best_model_that_is_likely_in_time():
    policy = BestEffort(10.0, (0.1, 1.0))
    assert choose(policy, [0, 0]) == 1
    assert choose(policy, [0, 1]) == 0  # 4 s of waiting and 8 of service are too many
    assert choose(policy, [30, 0]) == 1


def test_the_price_rises_with_the_rate_and_with_the_crowd():
    policy = BestEffort(100.0, (0.1, 1.0))
    policy.price_K = np.array([0.0, 0.1])
    assert choose(policy, [0, 0]) == 1
    assert choose(policy, [0, 0], (0, 1, 2, 3)) == 0  # 7 s more at 0.1 are dearer than 0.4 of quality
    assert choose(policy, [0, 0], (0, 2, 4, 6)) == 0
    policy.price_K, policy.crowd = np.array([0.04, 0.04]), 1.0
    assert choose(policy, [0, 0]) == 1
    assert choose(policy, [0, 2]) == 0


def test_learning_raises_the_gain_where_greed_fails():
    """Two models; the large one's seconds are better kept for those whose answers it betters, which greed ignores."""
    rng = np.random.default_rng(0)
    quality_NM = np.where(rng.random((300, 1)) < 0.5, [[0.8, 0.82]], [[0.1, 0.9]])
    seconds_NM = np.tile([0.5, 4.0], (300, 1))
    expected = Expected(quality_NM, seconds_NM, np.full(2, 0.05))
    rates = (0.05, 0.2, 0.4)
    learned = BestEffort(9.0, rates).fit(expected, quality_NM, seconds_NM, requests=100, rounds=6, points=12)
    assert (np.diff(learned.price_K) > 0).all()
    gains = []
    for policy in (BestEffort(9.0, rates), learned):
        arrival_N = poisson(300, 0.3, np.random.default_rng(1))
        served = policy.serve(arrival_N, expected, seconds_NM)
        gains.append(gain(served, quality_NM, 9.0).mean())
    assert gains[1] > gains[0] + 0.02


def test_late_answers_are_worth_nothing():
    served = Served(np.array([0, 1, 1]), np.array([1.0, 5.0, 5.1]))
    np.testing.assert_allclose(gain(served, np.array([[0.3, 0.4]] * 3), 5.0), [0.3, 0.4, 0.0])


@pytest.mark.parametrize(("deadline", "rates"), [(0.0, (1.0,)), (1.0, ()), (1.0, (2.0, 1.0)), (1.0, (0.0, 1.0))])
def test_policies_that_cannot_be(deadline, rates):
    with pytest.raises(RosterError, match=r"deadline|rates"):
        BestEffort(deadline, rates)


PROMPTS = [f"{'explain at length' if n % 2 else 'say yes or no'} number {n % 7}" for n in range(60)]
LENGTHS = np.array([200.0 + n % 5 if n % 2 else 3.0 + n % 3 for n in range(60)])


@pytest.mark.parametrize("buckets", [2, 5])
def test_lengths_follow_the_words(buckets):
    predictor = LengthPredictor(buckets, encoder=TfIdf(dimensions=8)).fit(PROMPTS, LENGTHS)
    short, long = predictor.predict(["say yes or no number 3", "explain at length number 3"])
    assert short < 40
    assert long > 150
    np.testing.assert_allclose(predictor.chances(PROMPTS[:4]).sum(1), 1)


def test_the_length_predictor_is_scikit_learns_and_survives_packing():
    from sklearn.linear_model import LogisticRegression

    predictor = LengthPredictor(4, encoder=TfIdf(dimensions=8)).fit(PROMPTS, LENGTHS)
    x_ND = predictor._features(PROMPTS)
    theirs = LogisticRegression(C=3.0, max_iter=500).fit(x_ND, predictor.bucket(LENGTHS))
    np.testing.assert_allclose(predictor.chances(PROMPTS), theirs.predict_proba(x_ND), atol=1e-9)
    again = unpack(*pack(predictor), {"LengthPredictor": LengthPredictor, "TfIdf": TfIdf})
    np.testing.assert_array_equal(again.predict(PROMPTS), predictor.predict(PROMPTS))


def test_lengths_that_teach_nothing():
    with pytest.raises(RosterError, match="same length"):
        LengthPredictor().fit(["a b", "b c"], np.array([5.0, 5.0]))
    with pytest.raises(RosterError, match="one length per prompt"):
        LengthPredictor().fit(["a b"], np.array([5.0, 5.0]))


def test_the_latency_model_in_a_case_worked_out_by_hand():
    machine = Machine(base=1.0, prefill=0.1, decode=0.01, context=0.001, memory=100)
    prompt_N, answer_N, predicted_N = [30, 20, 10, 40], [50, 5, 5, 30], np.array([40.0, 20.0, 10.0, 30.0])
    instance = Instance(machine, prompt_N, answer_N)
    instance.add(0, 0.0)
    instance.advance(1.0)  # one iteration: request 0 has written a token, 31 are held
    instance.add(1, 1.0)
    router = WorkloadAware(machine)
    found = dict(zip(FEATURES, router.features(3, instance, np.array(prompt_N, dtype=float), predicted_N), strict=True))
    assert found["reading"] == pytest.approx(0.1 * (20 + 40))
    assert found["stalls"] == pytest.approx(0.1 * 40 * 1)
    overlap = 30 * (0.02 + 0.001 * (40 + 31)) + 20 * (0.02 + 0.001 * (40 + 20))
    assert found["mixing"] == pytest.approx(overlap)
    assert found["memory"] == 0.0  # 31 + 20 + 40 fit into 100
    assert found["fullness"] == pytest.approx((31 + 39 + 20 + 20 + 40 + 30) / 100)
    assert found["requests"] == 2
    # 19 tokens too many: the running answer ends after 39 more, in iterations of 1 + 0.01 + 0.001 x 31.
    machine = Machine(base=1.0, prefill=0.1, decode=0.01, context=0.001, memory=72)
    wait = WorkloadAware(machine).features(3, instance, np.array(prompt_N, dtype=float), predicted_N)[3]
    assert wait == pytest.approx(39 * (1 + 0.01 + 0.001 * 31))


def mixed(seed, count=200):
    rng = np.random.default_rng(seed)
    heavy_N = rng.random(count) < 0.3
    prompt_N, answer_N = np.where(heavy_N, 900, 40), np.where(heavy_N, 20, rng.integers(20, 200, count))
    return Trace(
        bursts(count, (4.0, 10.0), (16.0, 5.0), rng), prompt_N, answer_N, answer_N * rng.uniform(0.5, 2, count)
    )


def test_the_router_never_reads_true_lengths():
    trace = mixed(0)
    seen = []
    for answers in (trace.answer_N, np.ones_like(trace.answer_N)):
        route = WorkloadAware().router(Trace(trace.arrival_N, trace.prompt_N, answers, trace.predicted_N))
        fleet = [Instance(Machine(), trace.prompt_N.tolist(), trace.answer_N.tolist()) for _ in range(4)]
        choices = []
        for n, now in enumerate(trace.arrival_N):
            for each in fleet:
                each.advance(now)
            choices.append(route(n, now, fleet))
            fleet[choices[-1]].add(n, now)
        seen.append(choices)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 4


def test_learning_does_not_lose_to_the_heuristic_it_starts_from():
    router = WorkloadAware(Machine(memory=5_000), 2)
    bad_F = -HEURISTIC_F

    def delay(weights):
        delays = []
        for seed in (10, 11, 12):
            trace = mixed(seed)
            route = router.router(trace, weights)
            delays.append(
                serve(trace.arrival_N, trace.prompt_N, trace.answer_N, route, 2, router.machine).delay_N.mean()
            )
        return np.mean(delays)

    heuristic, contrary = delay(None), delay(bad_F)
    router.fit(lambda n: [mixed(100 + n)], rounds=3, points=6)
    assert not np.array_equal(router.weight_F, HEURISTIC_F)
    assert delay(None) < heuristic * 1.02
    assert heuristic < contrary


def test_recipes_take_their_options():
    policy = find("learned-best-effort")({"deadline": 5.0, "rates": (1.0, 2.0)})
    assert (policy.deadline, policy.rates) == (5.0, (1.0, 2.0))
    router = find("workload-aware-router")({"instances": 2, "memory": 100})
    assert (router.instances, router.machine.memory) == (2, 100)
