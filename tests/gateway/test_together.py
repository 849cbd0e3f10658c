"""Texts that wait at the same moment are looked at in one pass; one text's trouble is not the others'."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from roster.errors import RosterError
from roster.gateway.learning import Learner
from roster.gateway.policies.base import Untrained
from roster.gateway.together import AT_ONCE, Together
from roster.lm.policy import Decision
from roster.lm.text import Said


class Looking:
    """Looks at texts when it is let, and keeps what it was asked."""

    def __init__(self):
        self.passes, self.free = [], threading.Event()

    def __call__(self, texts):
        self.passes.append(list(texts))
        assert self.free.wait(10)
        if "bad" in texts:
            raise RosterError("a bad text")
        return [text.upper() for text in texts]


def run(look, texts, gone=()):
    """What each text's caller gets; the first text is on the way before the others come, and `gone` leave."""

    async def all_of():
        with ThreadPoolExecutor(1) as thread:
            together = Together(look, thread)
            tasks = [asyncio.create_task(together.of(texts[0]))]
            while not look.passes:
                await asyncio.sleep(0.001)
            tasks += [asyncio.create_task(together.of(text)) for text in texts[1:]]
            await asyncio.sleep(0.01)
            for each in gone:
                tasks[each].cancel()
            await asyncio.sleep(0)
            look.free.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(all_of())


def test_who_waits_goes_together():
    look = Looking()
    assert run(look, ["a", "b", "c", "d"]) == ["A", "B", "C", "D"]
    assert look.passes == [["a"], ["b", "c", "d"]]


def test_a_pass_has_a_bound():
    look = Looking()
    texts = [f"t{n}" for n in range(2 * AT_ONCE + 2)]
    assert run(look, texts) == [text.upper() for text in texts]
    assert [len(each) for each in look.passes] == [1, AT_ONCE, AT_ONCE, 1]


def test_one_texts_trouble_is_not_the_others():
    look = Looking()
    found = run(look, ["a", "b", "bad", "c"])
    assert [each for each in found if isinstance(each, str)] == ["A", "B", "C"]
    assert isinstance(found[2], RosterError)


def test_clients_that_have_gone_are_not_worked_for():
    look = Looking()
    found = run(look, ["a", "b", "c"], gone=[1])
    assert isinstance(found[1], asyncio.CancelledError)
    assert (found[0], found[2]) == ("A", "C")
    assert look.passes == [["a"], ["c"]]


class Shouting(Untrained):
    """Chooses the model that a text names."""

    text = "last-user"

    def __init__(self):
        super().__init__("shouting", ["A", "B"])
        self.passes = []

    def look(self, prompts):
        self.passes.append(list(prompts))
        return [prompt.upper() for prompt in prompts]

    def decide_on(self, seen, exclude):
        if seen in exclude:
            raise RosterError("no model left")
        return Decision(seen, "it was said")


def test_a_policy_that_looks_is_asked_so():
    learner = Learner(Shouting)

    async def decided():
        said = [Said.plain(text) for text in "ab"]
        found = await asyncio.gather(*(learner.decide(each, frozenset(), {}, None) for each in said))
        with pytest.raises(RosterError, match="no model left"):
            await learner.decide(said[0], frozenset({"A"}), {}, None)
        return found

    assert [each.model for each in asyncio.run(decided())] == ["A", "B"]
    assert learner.policy.passes[0] == ["a", "b"]
    learner.close()
