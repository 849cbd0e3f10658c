"""Policies that a config can name: those that need no training, one that learns online, and saved ones.

To add a kind: a class with `Options` and `build` in a file of its own, and a line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from roster.errors import RosterError, nearest
from roster.gateway.config import Model
from roster.gateway.policies.base import Untrained, prices_of
from roster.gateway.policies.best_effort import BestEffortPolicy
from roster.gateway.policies.cascade import Cascade
from roster.gateway.policies.cheapest import Cheapest
from roster.gateway.policies.fixed import Fixed
from roster.gateway.policies.folder import Folder
from roster.gateway.policies.mix import Mix
from roster.gateway.policies.probe import Probe
from roster.gateway.policies.thompson import Thompson
from roster.gateway.policies.workload import WorkloadAwarePolicy
from roster.gateway.reading import worded
from roster.lm.policy import Policy

KINDS: dict[str, type[Untrained]] = {
    "cascade": Cascade,
    "cheapest": Cheapest,
    "fixed": Fixed,
    "folder": Folder,
    "learned-best-effort": BestEffortPolicy,
    "mix": Mix,
    "probe": Probe,
    "thompson": Thompson,
    "workload-aware-router": WorkloadAwarePolicy,
}


def build_policy(name: str, options: Mapping[str, Any], known: Mapping[str, Model], base: Path) -> Policy:
    """The policy of an entry under `policies` in the config.

    Args:
        name: its key.
        options: its value: `kind`, and what that kind takes.
        known: all models of the config, by name.
        base: the config file's folder, which paths are relative to.

    Raises:
        RosterError: there is no such kind, its options are wrong, or it knows models that the config does not.
    """
    where = f"policies.{name}"
    given = dict(options)
    kind = given.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise RosterError(f"{where}.kind: unknown policy {str(kind)!r}: {nearest(str(kind), KINDS)}")
    made = KINDS[kind]
    try:
        checked = made.Options.model_validate(given)
    except ValidationError as error:
        raise RosterError(f"{where}.{worded(error, made.Options)}") from None
    try:
        policy = made.build(name, checked, known, base)
        prices_of(policy.models, known)
    except RosterError as error:
        raise RosterError(f"{where}: {error}") from None
    return policy
