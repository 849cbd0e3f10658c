"""Between requests and the store: reservations, payments, and a spool for when the store does not answer.

A request without a budget never waits long for the store and never fails with it: what it would have written waits in
memory, bounded in bytes, and is written in order once the store is back. A request with a budget is refused before any
model is asked, since nobody can say what is left. What was reserved is always given back: a correction that cannot be
written waits too, and is the one thing that is never thrown away. Only the process's own end loses what waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Sequence
from functools import partial

from roster.gateway.calls import Call
from roster.gateway.errors import ApiError
from roster.gateway.keys import Caller
from roster.gateway.store import Entry, Row, Store, StoreAway

log = logging.getLogger("roster.gateway")
PATIENCE = 2.0
"""Seconds that a request waits for the store."""
BATCH = 200
"""Entries that are written in one transaction."""


def unavailable() -> ApiError:
    """The error for what cannot be done without the store."""
    return ApiError(
        503, "The gateway's store does not answer, so this cannot be done now.", "store_unavailable",
        kind="server_error", retry_after=1.0,
    )  # fmt: skip


class Ledger:
    """The store as requests see it.

    Args:
        store: where everything ends up.
        capacity: bytes that may wait in memory.
        patience: seconds that a request waits for the store.

    Attributes:
        away: whether the store failed, or did not answer in time, and has not answered since.
        dropped: calls whose rows were lost because too much was waiting.
    """

    def __init__(self, store: Store, capacity: int, patience: float = PATIENCE) -> None:
        self.store, self._capacity, self._patience = store, capacity, patience
        self.away = False
        self.dropped = 0
        self._spool: deque[Entry] = deque()
        self._bytes = 0
        self._owed: Counter[tuple[str, str]] = Counter()
        self._flushing = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Entries in the spool."""
        return len(self._spool)

    async def reserve(self, rows: Sequence[Row], amount: int) -> bool:
        """Sets an amount aside in every row; False when a budget does not allow it.

        Raises:
            ApiError: 503, the store cannot say.
        """
        if self.away:
            raise unavailable()
        work = asyncio.ensure_future(self.store.reserve(rows, amount))
        try:
            await asyncio.wait({work}, timeout=self._patience)
        finally:
            if not work.done():  # late, or the request is gone: what will have been set aside is given back
                work.add_done_callback(partial(self._give_back, rows, amount))
        if not work.done():
            self._lost("does not answer in time")
            raise unavailable()
        try:
            return work.result()
        except StoreAway as error:
            self._lost(str(error))
            raise unavailable() from None

    async def settle(self, entry: Entry) -> None:
        """Writes an entry: now if the store answers, else later."""
        if self.away or self._spool:
            self._keep(entry)
            return
        work = asyncio.ensure_future(self.store.settle([entry]))
        self._under_way.add(work)
        work.add_done_callback(partial(self._settled, entry))
        await asyncio.wait({work}, timeout=self._patience)
        if not work.done():
            self._lost("does not answer in time")

    async def call(self, id: str) -> Call | None:
        """A recorded call, or one that waits to be.

        Raises:
            StoreAway: the store does not answer.
        """
        waiting = (entry.call for entry in self._spool if entry.call is not None and entry.call.id == id)
        return next(waiting, None) or await self.store.call(id)

    async def flush(self) -> None:
        """Writes what waits; called regularly."""
        if not (self.away or self._spool or self._owed):
            return
        async with self._flushing:
            try:
                while self._spool or self._owed:
                    await self._write_some()
                await self.store.ping()
            except StoreAway:
                return
            if self.away:
                log.info("the store answers again; everything that waited is written")
            self.away = bool(self._spool)

    async def close(self) -> None:
        """Writes what can still be written."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        await self.flush()
        if self._spool or self._owed:
            log.error("the store does not answer: %d calls are lost", len(self._spool))

    async def _write_some(self) -> None:
        batch = [self._spool.popleft() for _ in range(min(BATCH, len(self._spool)))]
        owed, self._owed = self._owed, Counter()
        paid = [Entry((Row(name, period, None),), amount, None) for (name, period), amount in owed.items()]
        try:
            await self.store.settle(batch + paid)
        except BaseException:
            self._spool.extendleft(reversed(batch))
            self._owed.update(owed)
            raise
        self._bytes -= sum(entry.size for entry in batch)

    def _give_back(self, rows: Sequence[Row], amount: int, work: asyncio.Future[bool]) -> None:
        if not work.cancelled() and work.exception() is None and work.result():
            self._keep(Entry(tuple(rows), -amount, None))

    def _settled(self, entry: Entry, work: asyncio.Task[None]) -> None:
        self._under_way.discard(work)
        if work.cancelled() or work.exception() is not None:
            self._keep(entry)
            self._lost(str(None if work.cancelled() else work.exception()))

    def _keep(self, entry: Entry) -> None:
        self._spool.append(entry)
        self._bytes += entry.size
        while self._bytes > self._capacity and self._spool:
            oldest = self._spool.popleft()
            self._bytes -= oldest.size
            self.dropped += oldest.call is not None
            for row in oldest.rows:
                self._owed[row.name, row.period] += oldest.difference

    def _lost(self, why: str) -> None:
        if not self.away:
            log.error("the store fails (%s); calls wait in memory, requests with a budget are refused", why)
        self.away = True


class Purse:
    """The money of one request.

    Args:
        ledger: where it comes from.
        caller: who pays.
    """

    def __init__(self, ledger: Ledger, caller: Caller) -> None:
        self._ledger, self._limited = ledger, caller.limited
        self._rows = tuple(Row(account.name, account.period_now(), account.budget) for account in caller.accounts)
        self._held = 0
        self._settled = False

    async def hold(self, total: int) -> bool:
        """Makes sure that so much is set aside in all; False when a budget does not allow it.

        Raises:
            ApiError: 503, the store cannot say.
        """
        more = total - self._held
        if not self._limited or more <= 0:
            return True
        if not await self._ledger.reserve(self._rows, more):
            return False
        self._held += more
        return True

    async def settle(self, cost: int, call: Call | None) -> bool:
        """Pays what it did cost, gives the rest back and records the call; a second time does nothing and is False."""
        if self._settled:
            return False
        self._settled = True
        await self._ledger.settle(Entry(self._rows, cost - self._held, call))
        return True
