"""Running a server: from a mixture's folder to an open port."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import uvicorn

from roster.errors import RosterError
from roster.gateway.config import LOOPBACK, Listen
from roster.gateway.serving import server_config
from roster.serve.answers import Server
from roster.serve.app import create_app
from roster.serve.engine import Engine
from roster.serve.metrics import Metrics
from roster.serve.mixture import ServedMixture


@dataclass(frozen=True)
class Bounds:
    """What requests may take.

    Attributes:
        rows: answers at work at once.
        waiting: requests that may wait.
        max_tokens: of an answer.
        request_bytes: of a request's body.
    """

    rows: int = 32
    waiting: int = 256
    max_tokens: int = 1024
    request_bytes: int = 4 * 1024 * 1024


def make_server(model: Any, bounds: Bounds | None = None) -> Server:
    """A server of a routed mixture; nothing runs yet.

    Raises:
        RosterError: it cannot be served.
    """
    bounds = bounds or Bounds()
    engine = Engine(model, bounds.rows, bounds.waiting)
    return Server(ServedMixture(model, bounds.max_tokens), engine, Metrics(engine))


def check_reach(host: str, api_key: str | None) -> None:
    """Raises: RosterError: others could ask without a key."""
    if host not in LOOPBACK and api_key is None:
        raise RosterError(f"--host {host} can be reached from elsewhere: give --api-key (or ROSTER_API_KEY) as well")


def serve(server: Server, listen: Listen, api_key: str | None, request_bytes: int) -> None:
    """Serves until it is told to stop."""
    uvicorn.Server(server_config(create_app(server, api_key, request_bytes), listen)).run()
