"""Circuit breaking: a model that fails again and again is left alone for a while, then tried by one request.

An upstream that says with Retry-After when it wants to be asked again is not tried sooner, up to `LONGEST`.

There is one circuit for each way to a model (see `ways.py`): a model that is broken says nothing about its neighbours
on the same server.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST = 3600.0
"""Seconds: an upstream that asks for more is tried again all the same, so that a wrong clock closes no way for good."""


class Breaker:
    """The circuit of one way to a model: closed, open, or half open with one trial under way.

    Args:
        failures: so many in a row open it.
        cooldown: seconds until a trial.
        clock: seconds that never go back.
    """

    def __init__(self, failures: int, cooldown: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures, self.cooldown, self.clock = failures, cooldown, clock
        self.in_a_row = 0
        self.opened_at: float | None = None
        self.trial_since: float | None = None
        self._asked_wait = 0.0

    @property
    def wait(self) -> float:
        """Seconds until a call may be made; 0.0 when it may be made now."""
        if self.opened_at is None:
            return 0.0
        if self.trial_since is None:
            until = self.opened_at + max(self.cooldown, self._asked_wait)
        else:  # a trial whose end nobody reported must not close the way for ever
            until = self.trial_since + self.cooldown
        return max(0.0, until - self.clock())

    def begin(self) -> None:
        """A call is about to be made; while the circuit is open it is the trial, and others wait for it."""
        if self.opened_at is not None:
            self.trial_since = self.clock()

    def succeeded(self) -> None:
        """It answered."""
        self.in_a_row, self.opened_at, self.trial_since = 0, None, None

    def failed(self, retry_after: float | None = None) -> None:
        """It did not answer, or not sensibly; `retry_after`: seconds until it wants to be asked again."""
        self.in_a_row += 1
        self._asked_wait = min(retry_after or 0.0, LONGEST)
        if self.in_a_row >= self.failures:
            self.opened_at, self.trial_since = self.clock(), None

    def abandoned(self) -> None:
        """The call ended for the client's reasons, which says nothing about the model."""
        self.trial_since = None
