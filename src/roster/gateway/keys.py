"""Whose request is it? API keys are kept as hashes, compared in constant time, and never written anywhere."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from roster.gateway.config import Key
from roster.gateway.errors import ApiError

NANO = 1_000_000_000
"""Money is counted in whole billionths of the currency, so that sums are exact."""


@dataclass(frozen=True)
class Account:
    """Where spending is counted.

    Attributes:
        name: a key's, or a team's with "team " before it.
        budget: the most that may be spent in a period, in billionths; None: no limit.
        period: day, month or total.
    """

    name: str
    budget: int | None = None
    period: str = "total"

    def period_now(self) -> str:
        """The current period's name in the store, such as 2026-01; UTC."""
        form = {"day": "%Y-%m-%d", "month": "%Y-%m", "total": "total"}[self.period]
        return datetime.now(UTC).strftime(form)


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        name: the key's name in the config; "anonymous" where there are no keys.
        accounts: all that pay for it.
    """

    name: str
    accounts: tuple[Account, ...]

    @property
    def limited(self) -> bool:
        """Whether there is a budget to keep."""
        return any(account.budget is not None for account in self.accounts)


ANONYMOUS = Caller("anonymous", (Account("anonymous"),))


class Keyring:
    """All keys of a config."""

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self._callers = [(_digest(key), _caller(name, key)) for name, key in keys.items()]

    def caller(self, authorization: str | None) -> Caller:
        """The owner of the bearer token in an Authorization header.

        Raises:
            ApiError: 401, with the same words whatever is wrong.
        """
        if not self._callers:
            return ANONYMOUS
        scheme, _, token = (authorization or "").partition(" ")
        presented = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for digest, caller in self._callers:  # all of them, so that time does not tell which came close
            if hmac.compare_digest(digest, presented):
                found = caller
        if found is None or scheme.lower() != "bearer":
            raise ApiError(401, "No valid API key was given, as `Authorization: Bearer ...`.", "invalid_api_key")
        return found


def _digest(key: Key) -> bytes:
    if key.sha256 is not None:
        return bytes.fromhex(key.sha256)
    assert key.key is not None
    return hashlib.sha256(key.key.get_secret_value().encode()).digest()


def _caller(name: str, key: Key) -> Caller:
    account = Account(name, None if key.budget is None else round(key.budget * NANO), key.period)
    return Caller(name, (account,))
