"""Is every upstream what the config says? Asked without a request that costs anything.

An upstream must answer, take each of its keys, and list each model that is said to be there. One that lists no models
must at least refuse an empty chat for its emptiness, which shows that the URL is right and the key is good.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from roster.errors import nearest
from roster.gateway import strict_json
from roster.gateway.config import Upstream
from roster.gateway.config_file import Config
from roster.gateway.outbound import one_key_each
from roster.gateway.upstreams import Client

_NO_LIST = (404, 405, 501)


async def faults(client: Client, config: Config) -> list[str]:
    """What is wrong, in one clause each; empty when nothing is."""
    found = await asyncio.gather(*(_upstream(client, config, name) for name in config.upstreams))
    return [fault for each in found for fault in each]


async def _upstream(client: Client, config: Config, name: str) -> list[str]:
    models = {known: model.name or known for known, model in config.models.items() if name in model.upstreams}
    found: dict[str, None] = {}
    for number, upstream in enumerate(one_key_each(config.upstreams[name])):
        many = f" (api_keys, number {number + 1})" if config.upstreams[name].api_keys else ""
        found |= dict.fromkeys(await _with_key(client, f"the upstream {name}{many}", upstream, models))
    return list(found)


async def _with_key(client: Client, who: str, upstream: Upstream, models: dict[str, str]) -> list[str]:
    if upstream.lists_models:
        answer = await client.probe(upstream, "GET", "/models")
        if answer is not None and answer[0] == 200:
            return _listed(who, answer[1], models)
        if answer is None or answer[0] not in _NO_LIST:
            return _status(who, answer and answer[0])
    empty = {"model": next(iter(models.values()), "none"), "messages": []}
    answer = await client.probe(upstream, "POST", "/chat/completions", empty)
    if answer is not None and answer[0] in (200, 400, 413, 422, 429):
        return []
    if answer is not None and answer[0] in _NO_LIST:
        return [f"{who} has neither /models nor /chat/completions: is its URL complete, up to the version?"]
    return _status(who, answer and answer[0])


def _status(who: str, status: int | None) -> list[str]:
    if status is None:
        return [f"nothing answers at {who}"]
    if status in (401, 403):
        return [f"{who} does not accept the key (status {status})"]
    return [f"{who} answers with status {status}"]


def _listed(who: str, raw: bytes, models: dict[str, str]) -> list[str]:
    try:
        told: Any = strict_json.loads(raw)
    except json.JSONDecodeError:
        told = None
    entries = told.get("data") if isinstance(told, dict) else None
    if not isinstance(entries, list):
        return [f"{who} answers, but /models is no list of models: is its URL complete, up to the version?"]
    names = {str(each.get("id")) for each in entries if isinstance(each, dict)}
    return [
        f"models.{known}: {who} does not list {name!r}: {nearest(name, names)}"
        for known, name in models.items()
        if not {name, f"{name}:latest"} & names
    ]
