"""Circuit breaking: a model that fails again and again is left alone for a while, then tried by one request.

There is one circuit for each way to a model (see `ways.py`): a model that is broken says nothing about its neighbours
on the same server.
"""

from __future__ import annotations

import time
from collections.abc import Callable


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

    @property
    def wait(self) -> float:
        """Seconds until a call may be made; 0.0 when it may be made now."""
        if self.opened_at is None:
            return 0.0
        # A trial whose end nobody reported must not close the way for ever.
        since = self.opened_at if self.trial_since is None else self.trial_since
        return max(0.0, since + self.cooldown - self.clock())

    def begin(self) -> None:
        """A call is about to be made; while the circuit is open it is the trial, and others wait for it."""
        if self.opened_at is not None:
            self.trial_since = self.clock()

    def succeeded(self) -> None:
        """It answered."""
        self.in_a_row, self.opened_at, self.trial_since = 0, None, None

    def failed(self) -> None:
        """It did not answer, or not sensibly."""
        self.in_a_row += 1
        if self.in_a_row >= self.failures:
            self.opened_at, self.trial_since = self.clock(), None

    def abandoned(self) -> None:
        """The call ended for the client's reasons, which says nothing about the model."""
        self.trial_since = None
