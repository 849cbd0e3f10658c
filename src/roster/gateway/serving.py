"""Running a gateway: from a file to an open port, with reloads on SIGHUP and whenever the file changes."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from roster.errors import RosterError
from roster.gateway import logs
from roster.gateway.app import create_app
from roster.gateway.checking import faults
from roster.gateway.config import Listen
from roster.gateway.connections import protocol
from roster.gateway.gateway import Gateway
from roster.gateway.reading import read_config

log = logging.getLogger("roster.gateway")
LOOK_EVERY = 1.0
"""Seconds between looks at the config file."""
Mark = tuple[int, int, int]
"""Changes when a file does: time, size and inode."""


def open_gateway(path: Path) -> Gateway:
    """A gateway as a config file describes it; nothing listens yet.

    Raises:
        RosterError: what is wrong with the file, its policies or its store.
    """
    return Gateway(read_config(path), path.resolve().parent)


async def check(path: Path, offline: bool = False) -> list[str]:
    """Everything that can be known without a request that costs: the file, the policies, the store, the upstreams.

    Args:
        path: the config file.
        offline: do not ask the upstreams.

    Returns:
        What is wrong with the upstreams; see `checking.py`.

    Raises:
        RosterError: anything else is wrong.
    """
    gateway = await asyncio.to_thread(open_gateway, path)
    try:
        await gateway.start()
        return [] if offline else await faults(gateway.client, gateway.runtime.config)
    finally:
        await gateway.stop()


async def serve(path: Path) -> None:
    """Serves until it is told to stop.

    Raises:
        RosterError: before the port is opened, whatever is wrong.
    """
    seen = mark(path)
    gateway = await asyncio.to_thread(open_gateway, path)
    config = gateway.runtime.config
    logs.set_up(config.limits.log_lines)
    for fault in await faults(gateway.client, config):
        log.warning("%s; its models will fail until that is mended", fault)
    server = uvicorn.Server(server_config(create_app(gateway), config.listen))
    watching = asyncio.create_task(watch(gateway, path, seen))
    try:
        await server.serve()
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


def server_config(app: FastAPI, listen: Listen) -> uvicorn.Config:
    """How uvicorn is to serve the application."""
    return uvicorn.Config(
        app,
        host=listen.host,
        port=listen.port,
        http=protocol(listen),
        timeout_keep_alive=listen.idle,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,
    )


async def watch(
    gateway: Gateway, path: Path, seen: Mark | None, every: float = LOOK_EVERY, signals: bool = True
) -> None:
    """Reloads the config when the file changes or SIGHUP comes; a wrong file is logged once and changes nothing.

    Args:
        gateway: whose config it is.
        path: the file.
        seen: its mark from before it was read, so that no change is missed.
        every: seconds between looks.
        signals: heed SIGHUP, which only the main thread can.
    """
    hup = asyncio.Event()
    if signals and sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hup.set)
    last = seen
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(hup.wait(), every)
        before, last = last, mark(path)
        # A file that is still being written has another mark at the next look.
        if not hup.is_set() and (last == seen or last != before):
            continue
        hup.clear()
        seen = last
        try:
            await gateway.reload(path)
        except RosterError as error:
            gateway.metrics.reloads.labels("refused").inc()
            log.error("the config was not reloaded, the old one stays: %s", error)
        except Exception:  # such as the store being away: the next change must still be seen
            gateway.metrics.reloads.labels("refused").inc()
            log.exception("the config was not reloaded, the old one stays")
        else:
            gateway.metrics.reloads.labels("taken").inc()
            log.info("the config was reloaded")


def mark(path: Path) -> Mark | None:
    """Changes when the file does; None while it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
