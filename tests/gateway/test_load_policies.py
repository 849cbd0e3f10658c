"""Policies on the gateway's own queues: what they choose in plain cases, against the simulators, and live."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gateway.servers import settings
from gateway.test_failures import eventually
from roster.errors import RosterError
from roster.gateway.config_file import Config
from roster.gateway.policies import build_policy
from roster.gateway.policies.workload import Queue
from roster.lm.load.arrivals import poisson
from roster.lm.load.best_effort import gain
from roster.lm.load.queue import serve

ASK = [{"role": "user", "content": "count to three"}]
KNOWN = Config.model_validate(settings("http://x")).models
EFFORT = {
    "kind": "learned-best-effort",
    "deadline": 10.0,
    "models": {"small": {"quality": 0.5, "seconds": 0.5}, "large": {"quality": 0.9, "seconds": 4.0}},
}
WORK = {"kind": "workload-aware-router", "models": ["small", "large"]}


class Clock:
    """Goes when it is told to."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def effort():
    return build_policy("p", EFFORT, KNOWN, None)


@pytest.fixture
def at_rate(effort):
    """`at_rate(seconds)`: the policy after a while of requests that come so far apart."""
    effort._clock = clock = Clock()

    def settle(gap):
        effort._arrivals.clear()
        for _ in range(40):
            clock.now += gap
            effort.decide("x")
        clock.now += gap
        return effort

    return settle


def test_quality_while_there_is_time_and_less_of_it_when_busy(at_rate):
    calm = at_rate(100.0)
    assert calm.decide("x", load={"small": 0, "large": 0}).model == "large"
    assert calm.decide("x", load={"small": 0, "large": 3}).model == "small", "it would be late"
    assert calm.decide("x", load={"small": 40, "large": 0}).model == "large"
    assert calm.decide("x", exclude={"large"}).model == "small"
    decision = calm.decide("x", load={"large": 1})
    assert (decision.quality, decision.delay, decision.cost is not None) == (0.9, 6.0, True)
    with pytest.raises(RosterError, match="no model left"):
        calm.decide("x", exclude={"small", "large"})


def test_a_server_of_many_at_once_makes_nobody_wait():
    models = {"small": EFFORT["models"]["small"], "large": EFFORT["models"]["large"] | {"at_once": 8}}
    policy = build_policy("p", EFFORT | {"models": models}, KNOWN, None)
    assert policy.decide("x", load={"large": 5}).delay == 4.0


def test_under_load_it_gains_more_than_either_model_alone(effort):
    """In the simulator, whose queues are what the gateway would count; the policy sees no more than those counts."""
    rng = np.random.default_rng(5)
    seconds_NM = np.array([0.5, 4.0]) * np.exp(0.5 * rng.standard_normal((300, 2)) - 0.125)
    quality_NM, arrival_N = np.tile([0.5, 0.9], (300, 1)), poisson(300, 0.5, rng)
    effort._clock = clock = Clock()
    effort._arrivals.clear()

    def asked(n, load):
        clock.now = arrival_N[n]
        counts = dict(zip(effort.models, load.count_M.tolist(), strict=True))
        return effort.models.index(effort.decide("x", load=counts).model)

    def gained(scheduler):
        return gain(serve(arrival_N, seconds_NM, scheduler), quality_NM, 10.0).mean()

    assert gained(asked) > max(gained(lambda n, load, m=m: m) for m in (0, 1)) + 0.05


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"deadline": 0.0}, "deadline"),
        ({"rates": [2.0, 1.0]}, "rates"),
        ({"models": {"smal": {"quality": 0.5, "seconds": 1.0}}}, "did you mean 'small'"),
        ({"models": {"small": {"quality": 2.0, "seconds": 1.0}}}, "quality"),
    ],
)
def test_what_cannot_be(change, complaint):
    with pytest.raises(RosterError, match=complaint):
        build_policy("p", EFFORT | change, KNOWN, None)


def test_the_server_with_less_to_do_and_not_merely_with_fewer_requests():
    policy = build_policy("p", WORK, KNOWN, None)
    policy._clock = clock = Clock()
    assert policy.decide("a long prompt " * 2000, max_tokens=2000).model == "small"
    # One long request there, so that two short ones go to the other server, although that then has more.
    first = policy.decide("short", load={"small": 1}, max_tokens=10).model
    second = policy.decide("short", load={"small": 1, "large": 1}, max_tokens=10).model
    assert (first, second) == ("large", "large")
    assert policy.decide("short", exclude={"large"}, load={"small": 1, "large": 2}).model == "small"
    clock.now = 1000.0
    policy.decide("x", load={"small": 0, "large": 0})
    assert [len(queue.sent) for queue in policy._queues.values()] in ([1, 0], [0, 1]), "what has ended is forgotten"


def test_a_queue_guesses_how_far_answers_are():
    queue = Queue(step=0.1)
    queue.sent.extend([(30, 50, 0.0), (20, 5, 1.0)])
    queue.look(2, 2.0)
    assert (queue.running, queue.written(0), queue.written(1), queue.held) == ([0, 1], 20, 5, 30 + 20 + 20 + 5)
    queue.look(1, 2.0)
    assert (len(queue.sent), queue.held) == (1, 25)


@pytest.mark.parametrize("options", [EFFORT | {"deadline": 5.0}, WORK])
def test_they_read_the_gateways_own_queues(start, upstream, options):
    """A busy model is left: `large` hangs with the first request, which the policy sent there."""
    upstream.does |= {"secret-large": "hangs", "secret-small": "hangs"}
    client, gateway = start(policies={"auto": options})
    with ThreadPoolExecutor(4) as pool:
        asked = []
        for at in range(1, 5):
            asked.append(
                pool.submit(client.with_options(timeout=3).chat.completions.create, model="auto", messages=ASK)
            )
            assert eventually(lambda at=at: sum(gateway.runtime.ways.in_flight.values()) == at)
        busy = {name for name, count in gateway.runtime.ways.load.items() if count}
    assert busy == {"small", "large"}
    assert all(each.exception() is not None for each in asked)
