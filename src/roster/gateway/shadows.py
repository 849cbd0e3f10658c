"""Shadow traffic: some requests are asked again by another policy, after their answer, and nobody sees that answer.

What it costs stands under the key "shadow NAME"; `roster gateway compare` sets it beside what clients got.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from roster.gateway.config import Shadow
from roster.gateway.errors import ApiError
from roster.gateway.keys import Account, Caller
from roster.gateway.requests import Asked
from roster.gateway.session import Session
from roster.gateway.wishes import Wish

if TYPE_CHECKING:
    from roster.gateway.gateway import Gateway

log = logging.getLogger("roster.gateway")
AT_ONCE = 8
"""Shadow calls under way; more are left out, so that they do not take the place of clients' calls."""


class Shadows:
    """The shadow traffic of a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._under_way = 0

    def follow(self, policy: str | None, asked: Asked) -> None:
        """A request of a policy has been answered."""
        for name, shadow in self._gateway.runtime.config.routing.shadows.items():
            if policy == shadow.of and random.random() < shadow.share and self._under_way < AT_ONCE:
                self._under_way += 1
                self._gateway.spawn(self._ask(name, shadow, asked))

    async def _ask(self, name: str, shadow: Shadow, asked: Asked) -> None:
        account = f"shadow {name}"
        caller = Caller(account, (Account(account),))
        body = {key: value for key, value in asked.body.items() if key != "stream_options"} | {"stream": False}
        quiet = replace(asked, body=body, request=asked.request.model_copy(update={"stream": False}))
        session = Session(self._gateway, caller, quiet, Wish(shadow.policy, experiment=name))
        try:
            answer = await session.answer()
            await session.finish(answer.leg)
        except ApiError as error:
            await session.finish(session.legs[-1] if session.legs else None, error.code)
        finally:
            self._under_way -= 1
