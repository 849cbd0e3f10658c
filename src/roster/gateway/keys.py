"""Whose request is it, and what may they do? API keys are kept and looked up as hashes, and never written anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from roster.errors import RosterError, nearest
from roster.gateway.config import Rules, Secret, Team
from roster.gateway.config_file import Config
from roster.gateway.errors import ApiError
from roster.gateway.virtual_keys import VirtualKey

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


NO_RULES = Rules()


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        name: the key's name; "anonymous" where there are no keys.
        accounts: all that pay for it.
        rules: what it may do.
    """

    name: str
    accounts: tuple[Account, ...]
    rules: Rules = NO_RULES

    @property
    def limited(self) -> bool:
        """Whether there is a budget to keep."""
        return any(account.budget is not None for account in self.accounts)

    def may_ask(self, model: str) -> bool:
        """Whether a request may give this name as its model; `name:0.7` is `name`."""
        return not self.rules.models or bool({model, model.rpartition(":")[0]} & set(self.rules.models))

    def permit(self, model: str) -> None:
        """Lets a request pass.

        Raises:
            ApiError: 403, the key is not for this model.
        """
        if not self.may_ask(model):
            raise ApiError(403, f"This API key is not for the model {model!r}.", "model_not_allowed", param="model")


ANONYMOUS = Caller("anonymous", (Account("anonymous"),))


class Keyring:
    """All keys of a gateway: the config's, and those that were issued.

    Args:
        config: with keys and teams.
        issued: keys from the store; those that no longer work are refused like unknown ones.
    """

    def __init__(self, config: Config, issued: Sequence[VirtualKey] = ()) -> None:
        self._open = not config.access.keys and config.access.admin is None and not issued
        teams = config.access.teams
        self._callers = {digest(key): _caller(name, key, teams) for name, key in config.access.keys.items()}
        self._issued = {bytes.fromhex(key.sha256): (key, _caller(key.name, key.rules, teams)) for key in issued}

    def caller(self, authorization: str | None) -> Caller:
        """The owner of the bearer token in an Authorization header.

        Raises:
            ApiError: 401, with the same words whatever is wrong.
        """
        if self._open:
            return ANONYMOUS
        scheme, _, token = (authorization or "").partition(" ")
        # Looked up by its hash, whose timing tells nothing about the secret.
        presented = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found = self._callers.get(presented)
        if found is None and presented in self._issued and self._issued[presented][0].works:
            found = self._issued[presented][1]
        if found is None or scheme.lower() != "bearer":
            raise ApiError(401, "No valid API key was given, as `Authorization: Bearer ...`.", "invalid_api_key")
        return found


def check_new(config: Config, name: str, rules: Rules) -> None:
    """Whether a key of this name and with these rules could be issued.

    Raises:
        RosterError: the name is taken by the config, or there is no such team or model.
    """
    if name in config.access.keys:
        raise RosterError(f"there is a key called {name!r} in the config")
    if rules.team is not None and rules.team not in config.access.teams:
        raise RosterError(f"there is no team {rules.team!r}: {nearest(rules.team, config.access.teams)}")
    known = {"auto", *config.models, *config.routing.policies}
    for model in rules.models:
        if model not in known:
            raise RosterError(f"there is no model or policy {model!r}: {nearest(model, known)}")


def digest(secret: Secret) -> bytes:
    """The SHA-256 of a secret."""
    if secret.sha256 is not None:
        return bytes.fromhex(secret.sha256)
    assert secret.key is not None
    return hashlib.sha256(secret.key.get_secret_value().encode()).digest()


def _caller(name: str, rules: Rules, teams: Mapping[str, Team]) -> Caller:
    accounts = [_account(name, rules)]
    if rules.team is not None:
        # No key's name has a space.
        accounts.append(_account(f"team {rules.team}", teams.get(rules.team, Team())))
    return Caller(name, tuple(accounts), rules)


def _account(name: str, limits: Team) -> Account:
    return Account(name, None if limits.budget is None else round(limits.budget * NANO), limits.period)
