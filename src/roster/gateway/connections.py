"""Connections of clients that cost more than they ask for: cut, so that they cannot pile up.

uvicorn closes a connection that is idle between requests. It does not limit how long a request's head may take to
come, how long a client may leave an answer unread, nor how many connections there are; this protocol does.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from roster.gateway.config import Listen


def protocol(listen: Listen) -> type[asyncio.Protocol]:
    """uvicorn's own HTTP protocol with the limits of a config."""
    Base: Any = AutoHTTPProtocol
    count = 0

    class Limited(Base):  # type: ignore[misc]
        """One connection."""

        _head: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            nonlocal count
            count += 1
            super().connection_made(transport)
            if count > listen.connections:
                transport.abort()
                return
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            nonlocal count
            count -= 1
            _cancel(self._head)
            self._head = None
            _cancel(self._unread)
            self._unread = None
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._await_head()  # a part of the next request's head
            else:
                _cancel(self._head)
                self._head = None

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread is None:
                loop = asyncio.get_running_loop()
                self._unread = loop.call_later(listen.stalled, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            _cancel(self._unread)
            self._unread = None

        def _await_head(self) -> None:
            if self._head is None and not self.transport.is_closing():
                loop = asyncio.get_running_loop()
                self._head = loop.call_later(listen.head, self.transport.abort)

    return Limited


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
