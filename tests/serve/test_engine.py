"""The engine answers as `generate` does, whoever else is at work, and lets go of what nobody waits for."""

import queue

import pytest
import torch

import roster
import tiny
from roster.errors import RosterError
from roster.serve.engine import Engine, Full
from roster.serve.jobs import Ended, Failed, Job, Routed, Token
from roster.serve.sampling import Sampling

RECIPES = ("arrow-mbc", "lora-tle", "x-lora", "smear")


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """`make(recipe)`: a model that routes among four experts of different ranks."""
    folder = tmp_path_factory.mktemp("library")
    made = {}

    def build(recipe="arrow-mbc"):
        if recipe not in made:
            base = tiny.base()
            library = tiny.library(base, folder=folder / recipe)
            made[recipe] = roster.load(base, experts=library, router=recipe, tokenizer=tiny.Tokenizer()).eval()
        return made[recipe]

    return build


@pytest.fixture
def begin():
    engines = []

    def start(model, **options):
        engines.append(Engine(model, **options))
        engines[-1].start()
        return engines[-1]

    yield start
    for engine in engines:
        engine.stop()


def job(ids, gates=None, limit=8, ends=(), sampling=None, **more):
    events = queue.Queue()
    made = Job(list(ids), gates, limit, frozenset(ends), sampling or Sampling(), events.put, **more)
    made.events = events
    return made


def told(job):
    """All events of a job, up to its end."""
    events = [job.events.get(timeout=600)]
    while not isinstance(events[-1], Ended | Failed):
        events.append(job.events.get(timeout=600))
    return events


def written(job):
    return [event.id for event in told(job) if isinstance(event, Token)]


def alone(model, ids, gates=None, limit=8):
    """What `generate`, or a loop over whole forward passes with the weights given, says."""
    ids_1S = torch.tensor([list(ids)])
    with torch.inference_mode():
        if gates is None:
            out = model.generate(ids_1S, max_new_tokens=limit, do_sample=False, pad_token_id=0, eos_token_id=[-1])
            return out[0, ids_1S.shape[1] :].tolist()
        for _ in range(limit):
            logits = model(input_ids=ids_1S, gates=gates[None]).logits
            ids_1S = torch.cat([ids_1S, logits[:, -1:].argmax(-1)], dim=1)
    return ids_1S[0, -limit:].tolist()


def one(expert, count=4):
    return torch.eye(count)[expert]


def prompts():
    return [row.tolist() for row in tiny.tokens(5, 9, 3, 7, 12, 4)]


def test_given_weights_are_that_adapter_alone(make, tmp_path):
    """Against the recipe `named`, which has its own road through the model, and against the plain base."""
    ids_BS = torch.stack(tiny.tokens(6, 6, 6))
    base = tiny.base()
    plain = base(input_ids=ids_BS).logits
    library = tiny.library(base, folder=tmp_path)
    named = roster.load(tiny.base(), experts=library, router="named")
    expected = named(input_ids=ids_BS, task_ids=torch.tensor([2, -1, 0])).logits
    for recipe in RECIPES:
        model = make(recipe)
        with torch.inference_mode():
            found = model(input_ids=ids_BS, gates=torch.stack([one(2), torch.zeros(4), one(0)])).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[1], plain[1], atol=1e-5, rtol=1e-5)
    with pytest.raises(RosterError, match="gates must be"):
        model(input_ids=ids_BS, gates=one(0)[None])


def test_rows_with_different_adapters_answer_as_alone(make, begin):
    model = make()
    asked = [
        (ids, gates)
        for ids, gates in zip(prompts(), [one(0), one(1), torch.zeros(4), one(3), one(1), one(2)], strict=True)
    ]
    expected = [alone(model, ids, gates, 4 + at) for at, (ids, gates) in enumerate(asked)]
    engine = begin(model, rows=3)
    jobs = [job(ids, gates, 4 + at) for at, (ids, gates) in enumerate(asked)]
    for each in jobs:
        engine.submit(each)
    assert [written(each) for each in jobs] == expected
    assert engine.stepped > engine.steps, "they were at work together"


@pytest.mark.parametrize("recipe", RECIPES)
def test_rows_that_the_router_decides_on_answer_as_alone(make, begin, recipe):
    model = make(recipe)
    expected = [alone(model, ids, limit=3 + 2 * at) for at, ids in enumerate(prompts())]
    engine = begin(model, rows=3)
    jobs = [job(ids, limit=3 + 2 * at) for at, ids in enumerate(prompts())]
    for each in jobs:
        engine.submit(each)
    assert [written(each) for each in jobs] == expected


def test_both_sorts_at_once_and_joined_later(make, begin):
    model = make("lora-tle")
    long, late, router = prompts()[0], prompts()[4], prompts()[1]
    expected = [alone(model, long, one(1), 30), alone(model, late, one(2), 5), alone(model, router, limit=6)]
    engine = begin(model)
    jobs = [job(long, one(1), 30), job(late, one(2), 5), job(router, limit=6)]
    engine.submit(jobs[0])
    first = [jobs[0].events.get(timeout=600) for _ in range(5)]
    engine.submit(jobs[1])
    engine.submit(jobs[2])
    assert [written(each) for each in jobs[1:]] == expected[1:]
    assert [event.id for event in first if isinstance(event, Token)] + written(jobs[0]) == expected[0]


def test_who_is_on_duty_is_told_first(make, begin):
    model = make()
    engine = begin(model)
    named, base, router = job(prompts()[0], one(2)), job(prompts()[0], torch.zeros(4)), job(prompts()[0])
    for each in (named, base, router):
        engine.submit(each)
    first = [told(each)[0] for each in (named, base, router)]
    assert all(isinstance(each, Routed) for each in first)
    assert [each.weights for each in first[:2]] == [{"expert 2": 1.0}, {}]
    with roster.trace(model) as trace, torch.inference_mode():
        model(input_ids=torch.tensor([prompts()[0]]))
    expected = torch.stack([trace.gates(site).mean(0) for site in trace.sites]).mean(0)
    found = [first[2].weights.get(name, 0.0) for name in model.roster.experts]
    torch.testing.assert_close(torch.tensor(found), expected)
    assert list(first[2].weights.values()) == sorted(first[2].weights.values(), reverse=True)


def test_ends_and_limits(make, begin):
    model = make()
    engine = begin(model)
    expected = alone(model, prompts()[0], one(0))
    end = expected[3]
    stopped, full = job(prompts()[0], one(0), ends=[end]), job(prompts()[0], one(0), limit=1)
    for each in (stopped, full):
        engine.submit(each)
    *tokens, last = told(stopped)[1:]
    assert ([event.id for event in tokens], last) == (expected[: expected.index(end)], Ended("stop"))
    assert told(full)[1:] == [Token(expected[0]), Ended("length")]


def test_a_cancelled_row_is_free_for_the_next(make, begin):
    model = make()
    engine = begin(model, rows=1)
    endless, next_ = job(prompts()[0], one(0), limit=100_000), job(prompts()[1], one(1))
    engine.submit(endless)
    endless.events.get(timeout=600)
    engine.submit(next_)
    assert engine.waiting == 1
    engine.cancel(endless)
    assert written(next_) == alone(model, prompts()[1], one(1))
    assert (engine.waiting, len(endless.written) < 1000) == (0, True)


def test_who_leaves_the_queue_gives_their_place_at_once(make, begin):
    engine = begin(make(), rows=1, waiting=1)
    first, leaving, next_ = (job(prompts()[0], one(0), limit=100_000) for _ in range(3))
    engine.submit(first)
    first.events.get(timeout=600)
    for _ in range(3):  # while the engine is busy with a step
        engine.submit(leaving)
        engine.cancel(leaving)
        assert engine.waiting == 0
    engine.submit(next_)
    assert engine.waiting == 1


def test_the_queue_is_bounded_and_the_end_is_told(make, begin):
    engine = begin(make(), rows=1, waiting=1)
    jobs = [job(prompts()[0], one(0), limit=100_000) for _ in range(3)]
    engine.submit(jobs[0])
    jobs[0].events.get(timeout=600)
    engine.submit(jobs[1])
    with pytest.raises(Full):
        engine.submit(jobs[2])
    engine.stop()
    assert all(isinstance(told(each)[-1], Failed) for each in jobs[:2])


def test_a_pass_that_fails_takes_only_its_rows(make, begin, caplog):
    engine = begin(make())
    broken, sound = job([10_000], one(0)), job(prompts()[1], one(1))
    engine.submit(broken)
    assert isinstance(told(broken)[-1], Failed)
    engine.submit(sound)
    assert len(written(sound)) == 8


def test_draws_are_repeatable_and_their_own(make, begin):
    engine = begin(make())
    hot = [Sampling(1.5, 0.9, 7), Sampling(1.5, 0.9, 7), Sampling(1.5, 0.9, 8)]
    jobs = [job(prompts()[0], one(0), 20, sampling=each) for each in hot]
    for each in (*jobs, cold := job(prompts()[0], one(0), 20)):
        engine.submit(each)
    one_, same, other = map(written, jobs)
    assert one_ == same != other
    assert written(cold) == alone(make(), prompts()[0], one(0), 20)


def test_who_has_been_told_that_it_ended_is_not_at_work(make, begin):
    engine = begin(make())
    asked, running = job(range(5, 9), limit=3), []

    def emit(event):
        if isinstance(event, Ended):
            running.append(engine.running)
        asked.events.put(event)

    asked.emit = emit
    engine.submit(asked)
    told(asked)
    assert running == [0]
