"""From a mixture that `auto` routes to a folder that runs elsewhere: adapters, the probe, a start script, a gateway.

adapters/NAME/        each adapter in PEFT's own format
router/               the probe (`roster.auto.probe`)
start-vllm.sh         starts the engine
gateway.yaml          for `roster gateway`: one address, `auto`, the base and every adapter by name
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from roster.adapters.writing import current_adapters
from roster.auto.probe import Probe
from roster.deploy import vllm
from roster.deploy.probing import FIRST, make_probe, taught_by
from roster.errors import RosterError
from roster.gateway.config import Name
from roster.gateway.reading import parse_config
from roster.library import Adapter, write_adapter
from roster.saving import writing

ADAPTERS, ROUTER, GATEWAY = "adapters", "router", "gateway.yaml"
BASE, AUTO = "base", "auto"
OWNED = (ADAPTERS, ROUTER, GATEWAY, vllm.SCRIPT)
_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True)
class Deployment:
    """How a mixture is to be served.

    Attributes:
        base: folder or public name of the base, for the engine.
        replicas: addresses of the engine's servers, up to and including /v1.
        reads: what the gateway's policy reads of a prompt; see `roster.deploy.probing.make_probe`.
    """

    base: str
    replicas: Sequence[str] = (f"http://127.0.0.1:{vllm.PORT}/v1",)
    reads: str = FIRST


def deploy(model: Any, folder: Path, wanted: Deployment, tick: Callable[[int], None] = lambda count: None) -> Probe:
    """Writes the folder, whole or not at all; returns the probe.

    Args:
        model: a mixture that `auto` routes; it is taken apart.
        folder: what was deployed there before is replaced; other files stay.
        wanted: how it is to be served.
        tick: called with the number of examples that have just been read.

    Raises:
        RosterError: another recipe, names that do not go into addresses, or what the engine does not take.
    """
    taught_by(model)
    adapters, context = current_adapters(model), model.config.get_text_config().max_position_embeddings
    _check_names(adapters)
    script = vllm.start_script(wanted.base, adapters, ADAPTERS, BASE)
    config = gateway_config(list(adapters), wanted.replicas, context)
    parse_config(config, GATEWAY, {})
    probe = make_probe(model, wanted.reads, tick)
    with writing(folder, OWNED) as new:
        (new / ADAPTERS).mkdir()
        for adapter in adapters.values():
            write_adapter(new / ADAPTERS, adapter)
        probe.save(new / ROUTER)
        (new / GATEWAY).write_text(config, encoding="utf-8")
        (new / vllm.SCRIPT).write_text(script, encoding="utf-8")
        os.chmod(new / vllm.SCRIPT, 0o755)
    return probe


def gateway_config(names: Sequence[str], replicas: Sequence[str], context: int | None) -> str:
    """The text of `gateway.yaml`.

    Args:
        names: of the adapters.
        replicas: addresses of the engine's servers.
        context: tokens that the base reads.
    """
    upstreams = {f"engine-{at}": {"url": url} for at, url in enumerate(replicas, 1)}
    model: dict[str, Any] = {"upstream": list(upstreams), "price": {"input": 0.0, "output": 0.0}}
    if context is not None:
        model["context"] = context
    told = {
        "listen": {"host": "127.0.0.1", "port": 8080},
        "store": "sqlite:///gateway.db",
        "upstreams": upstreams,
        "models": {name: dict(model) for name in (BASE, *names)},
        AUTO: AUTO,
        "policies": {AUTO: {"kind": "probe", "path": ROUTER, "base": BASE}},
    }
    head = (
        "# Written by `roster deploy`. Start the engine, then: OMP_NUM_THREADS=1 roster gateway gateway.yaml\n"
        "# Keys, budgets, prices and limits: docs/gateway.md, or `roster gateway --example`.\n"
    )
    return head + yaml.dump(told, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=120)


class _Plain(yaml.SafeDumper):
    """Writes the same list as often as it occurs, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """See yaml."""
        return True


def _check_names(adapters: Mapping[str, Adapter]) -> None:
    for name in adapters:
        if name in (AUTO, BASE):
            raise RosterError(f"an adapter is called {name!r}, which has a meaning of its own here: rename it")
        try:
            _NAME.validate_python(name)
        except ValidationError:
            raise RosterError(
                f"the adapter {name!r} cannot be a model's name: letters, digits and ._:/- go, 128 at most"
            ) from None
