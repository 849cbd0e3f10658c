"""The engine: one thread that owns the model. It admits jobs, steps the rows at work, and lets them go.

Between two steps new jobs are admitted, as many as there is room for: they read their prompts in one pass and join the
rows at work, so that a short answer never waits for a long one. This is a scheduler of the simplest sort. transformers'
own continuous batching is not used: it packs all rows into one and keeps keys and values in pages, where what routers
remember beside them (`roster.routed.history`) has no place.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from roster.errors import RosterError
from roster.serve.batch import Batch, Row, decide, read
from roster.serve.jobs import Failed, Job
from roster.serve.sampling import Draw

log = logging.getLogger("roster.serve")


class Full(Exception):
    """As many jobs wait as may."""


class Engine:
    """Works on jobs until it is stopped.

    Args:
        model: a routed model, which belongs to the engine from now on.
        rows: how many are at work at once.
        waiting: how many more may wait.
        prompt_tokens: how many are read in one pass beside the rows at work; one prompt may always be longer.
    """

    def __init__(self, model: Any, rows: int = 32, waiting: int = 256, prompt_tokens: int = 2048) -> None:
        self.model, self._most, self._queue, self._tokens = model, rows, waiting, prompt_tokens
        self._jobs: deque[Job] = deque()
        self._calls: deque[Callable[[Any], None]] = deque()
        self._batches: list[Batch] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="roster-engine", daemon=True)
        self.steps = 0
        """Passes so far, and below how many rows they had."""
        self.stepped = 0

    @property
    def waiting(self) -> int:
        """Jobs that are not at work yet."""
        return len(self._jobs)

    @property
    def running(self) -> int:
        """Rows at work; one that has ended is not, though its batch lets it go only before the next step."""
        return sum(not row.over for batch in self._batches for row in batch.rows)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; what is not finished fails."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, job: Job) -> None:
        """Takes a job.

        Raises:
            Full: too many wait.
        """
        with self._changed:
            if len(self._jobs) >= self._queue:
                raise Full
            self._jobs.append(job)
            self._changed.notify()

    def call(self, work: Callable[[Any], None]) -> None:
        """Does something else with the model, between two steps; it must not raise.

        Raises:
            Full: too many wait.
        """
        with self._changed:
            if len(self._calls) >= self._queue:
                raise Full
            self._calls.append(work)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Nobody waits for it any more: its place in the queue is free at once, its row before the next step."""
        with self._changed:
            job.cancelled = True
            self._jobs = deque(each for each in self._jobs if each is not job)
            self._changed.notify()

    def _run(self) -> None:
        while self._wait():
            while self._calls:
                self._calls.popleft()(self.model)
            self._batches = [batch for batch in self._batches if batch.prune()]
            self._admit()
            for batch in list(self._batches):
                self._guarded(batch.rows, batch.step)
                self.steps, self.stepped = self.steps + 1, self.stepped + len(batch.rows)
        self._fail([row.job for batch in self._batches for row in batch.rows], RosterError("the server is stopping"))
        self._fail(list(self._jobs), RosterError("the server is stopping"))

    def _wait(self) -> bool:
        """Waits for work; False when the engine is to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._jobs or self._calls or self._batches)
            return not self._stopping

    def _admit(self) -> None:
        """Lets jobs in: those with given adapters in one pass, those that the router decides on in another."""
        new = self._next()
        if self.model.roster.plan.decides:
            undecided = [row for row in new if row.gates_E is None]
            if undecided:
                self._guarded(undecided, lambda: decide(self.model, undecided))
            new = [row for row in new if not row.done]
        for given in (True, False):
            rows = [row for row in new if (row.gates_E is not None) == given]
            if rows:
                self._guarded(rows, lambda rows=rows: self._read(rows))  # type: ignore[misc]

    def _next(self) -> list[Row]:
        rows: list[Row] = []
        tokens = 0
        with self._changed:
            while self._jobs and self.running + len(rows) < self._most:
                if rows and tokens + len(self._jobs[0].ids) > self._tokens:
                    break
                job = self._jobs.popleft()
                if not job.cancelled:
                    rows.append(Row(job, Draw(job.sampling, self.model.device), job.gates_E))
                    tokens += len(job.ids)
        return rows

    def _read(self, rows: list[Row]) -> None:
        new = read(self.model, rows)
        if not new.prune():
            return
        mate = next((batch for batch in self._batches if batch.given == new.given), None)
        if mate is None:
            self._batches.append(new)
        else:
            mate.join(new)

    def _guarded(self, rows: list[Row], work: Callable[[], None]) -> None:
        """Does something for rows; when that fails they do, and nobody else."""
        rows = list(rows)
        try:
            work()
        except Exception as error:
            log.exception("a pass over %d rows failed", len(rows))
            self._fail([row.job for row in rows if not row.done], error)
            for row in rows:
                row.done = True

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        for job in jobs:
            job.cancelled = True
            job.emit(Failed(error))
