"""Answers that may be given again: the same request of the same key gets the same answer, for nothing.

Off unless a key has `cache: true`. Whole answers only, in the memory of one gateway, bounded in bytes and in time; what
the client asked for must be equal in every field. Never shared between keys, whose owners must not read each other.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from cachetools import TTLCache

from roster.gateway.config import Cache
from roster.gateway.keys import Caller
from roster.gateway.prices import Usage
from roster.gateway.requests import Asked
from roster.lm.policy import Decision


@dataclass(frozen=True)
class Kept:
    """An answer.

    Attributes:
        body: what the client was told.
        policy: who decided.
        decision: for whom.
        usage: its tokens.
        size: of the body, in bytes.
    """

    body: dict[str, Any]
    policy: str | None
    decision: Decision
    usage: Usage
    size: int


class Answers:
    """The cache of a gateway."""

    def __init__(self, options: Cache) -> None:
        self._kept: TTLCache[bytes, Kept] = TTLCache(options.bytes, options.seconds, getsizeof=lambda kept: kept.size)

    def find(self, caller: Caller, asked: Asked) -> Kept | None:
        """The answer to the same request, if the key wants that and it was asked before."""
        if not _may_be_kept(caller, asked):
            return None
        found: Kept | None = self._kept.get(_mark(caller, asked))
        return found

    def keep(
        self, caller: Caller, asked: Asked, body: dict[str, Any], kept: tuple[str | None, Decision, Usage]
    ) -> None:
        """Keeps an answer, if its key wants that and it is not larger than all together may be."""
        if not _may_be_kept(caller, asked):
            return
        size = 1024 + 2 * len(json.dumps(body))
        if size <= self._kept.maxsize:
            self._kept[_mark(caller, asked)] = Kept(copy.deepcopy(body), *kept, size)


def _may_be_kept(caller: Caller, asked: Asked) -> bool:
    return caller.rules.cache and not asked.request.stream


def _mark(caller: Caller, asked: Asked) -> bytes:
    told = json.dumps([caller.name, asked.path, asked.body], sort_keys=True)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).digest()
