"""What the command line does with a gateway's store, beside a gateway that may be running: keys and spending."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from roster.errors import RosterError
from roster.gateway import virtual_keys
from roster.gateway.compare import Arm, compare
from roster.gateway.config import Rules
from roster.gateway.config_file import Config
from roster.gateway.keys import check_new
from roster.gateway.reading import read_config, worded
from roster.gateway.spend import Spent, spent
from roster.gateway.store import Store
from roster.gateway.virtual_keys import VirtualKey

Result = TypeVar("Result")


def limits(given: Sequence[str]) -> dict[str, Any]:
    """`budget=5` and the like as values.

    Raises:
        RosterError: one is not of that form.
    """
    pairs = [each.partition("=") for each in given]
    if not all(mark and value for _, mark, value in pairs):
        raise RosterError("--limit takes name=value, such as budget=5 or rpm=60")
    told = {name: yaml.safe_load(value) for name, _, value in pairs}
    return {name: float(value) if name == "budget" and type(value) is int else value for name, value in told.items()}


def create(path: Path, name: str, rules: dict[str, Any], days: float | None) -> str:
    """The secret of a new key.

    Raises:
        RosterError: the rules are none, or the name is taken.
    """
    config = read_config(path)
    try:
        checked = Rules.model_validate(rules)
    except ValidationError as error:
        raise RosterError(f"the key's rules: {worded(error, Rules)}") from None
    check_new(config, name, checked)
    return _with_store(config, path, lambda store: virtual_keys.create(store, name, checked, days))


def listed(path: Path) -> list[VirtualKey]:
    """All keys that were issued."""
    return _with_store(read_config(path), path, virtual_keys.listed)


def revoke(path: Path, name: str) -> None:
    """Makes a key worthless."""
    _with_store(read_config(path), path, lambda store: virtual_keys.revoke(store, name))


def spending(path: Path, by: str, days: float | None) -> list[Spent]:
    """What was spent; see `spend.spent`."""
    return _with_store(read_config(path), path, lambda store: spent(store, by, days))


def comparison(path: Path, name: str) -> list[Arm]:
    """The arms of an experiment; see `compare.compare`."""
    config = read_config(path)
    return _with_store(config, path, lambda store: compare(store, config, name))


def _with_store(config: Config, path: Path, work: Callable[[Store], Awaitable[Result]]) -> Result:
    store = Store(config.keeping.store, path.resolve().parent)
    try:
        return asyncio.run(_awaited(work(store)))
    finally:
        store.close()


async def _awaited(work: Awaitable[Result]) -> Result:
    return await work
