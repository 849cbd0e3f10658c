"""Policies at work: decisions on a thread of their own, and learning whose result is in the store before it is used.

A policy that learns exists twice. The one that decides is only ever given finished states; its twin takes the state
from the store, learns, and gives the new state back within the transaction that records the score. So a kill loses
either both or neither, several gateways on one store learn one thing, and a decision never sees half of an update.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar, runtime_checkable

from roster.errors import RosterError
from roster.gateway.store import Learned, Store
from roster.gateway.together import Looks, Together
from roster.lm.policy import Decision, Policy
from roster.lm.prices import tokens
from roster.lm.text import Said

Result = TypeVar("Result")
log = logging.getLogger("roster.gateway")


@runtime_checkable
class Judges(Protocol):
    """A policy that judges answers."""

    def confidence(self, prompt: str, answer: str) -> float:
        """How likely the answer is right."""


class Learner:
    """A policy, and its twin if it learns.

    Args:
        make: builds the policy; called twice for one that learns.
    """

    def __init__(self, make: Callable[[], Policy]) -> None:
        self.policy = make()
        self._fresh = self.policy.state()
        self._twin = make() if self._fresh else None
        self._version = 0
        self._thread = ThreadPoolExecutor(1, f"roster-{self.policy.name}")
        self._together = Together(self.policy.look, self._thread) if isinstance(self.policy, Looks) else None

    @property
    def learns(self) -> bool:
        """Whether feedback changes it."""
        return self._twin is not None

    async def decide(
        self, said: Said, exclude: Set[str], load: Mapping[str, float], max_tokens: int | None
    ) -> Decision:
        """Asks the policy about the text that it wants.

        Raises:
            RosterError: every model is excluded.
        """
        if self._together is not None and isinstance(self.policy, Looks):
            decision: Decision = self.policy.decide_on(await self._together.of(said.under(self.policy.text)), exclude)
            return decision
        known = {model: load.get(model, 0.0) for model in self.policy.models}
        prompt, read = said.under(self.policy.text), tokens(said.whole)
        return await self._on_thread(
            lambda: self.policy.decide(prompt, exclude=exclude, load=known, max_tokens=max_tokens, read=read)
        )

    @property
    def judges(self) -> bool:
        """Whether the policy judges answers itself, and needs no log-probabilities."""
        return bool(getattr(self.policy, "judges", False))

    async def confidence(self, said: Said, answers: Sequence[str]) -> float:
        """How likely answers to a request are right, in the mean; of a policy that judges them."""
        prompt, judge = said.under(self.policy.text), self.policy
        assert isinstance(judge, Judges)
        return await self._on_thread(lambda: sum(judge.confidence(prompt, each) for each in answers) / len(answers))

    async def feedback(self, store: Store, call: str, prompt: str | None, decision: Decision, score: float) -> bool:
        """Records a score and learns from it where that can be done.

        Returns:
            Whether something was learned.

        Raises:
            ScoredBefore: the call has a score.
        """
        twin = self._twin
        if twin is None or prompt is None:
            await store.add_feedback(call, score, None, None)
            return False

        def update(state: bytes | None) -> bytes:
            twin.restore(state or self._fresh)
            twin.feedback(prompt, decision, score)
            return twin.state()

        learned = await store.add_feedback(call, score, self.policy.name, update)
        assert learned is not None
        await self._take(learned)
        return True

    async def catch_up(self, store: Store) -> None:
        """Takes what the store has that is newer: at the start, and when another gateway has learned.

        Raises:
            RosterError: it does not fit this policy.
        """
        if self.learns:
            learned = await store.learned(self.policy.name, self._version)
            if learned is not None:
                await self._take(learned)

    async def _take(self, learned: Learned) -> None:
        def take() -> None:
            if learned.version > self._version:
                self.policy.restore(learned.state)
                self._version = learned.version

        await self._on_thread(take)

    async def _on_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Ends the thread when it has nothing left to do."""
        self._thread.shutdown(wait=False)


async def catch_up_all(learners: Mapping[str, Learner], store: Store) -> None:
    """`catch_up` for each; what does not fit is logged and left."""
    for name, learner in learners.items():
        try:
            await learner.catch_up(store)
        except RosterError as error:
            log.error("policies.%s: %s", name, error)
