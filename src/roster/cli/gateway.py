"""`roster gateway`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from roster.errors import RosterError


def gateway(
    config: Annotated[Path | None, typer.Argument(help="The config file, YAML.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the config, and every upstream's URL, key and models; then end.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="With --check: leave the upstreams alone.")] = False,
    example: Annotated[bool, typer.Option("--example", help="Print a config to begin with.")] = False,
) -> None:
    """Serve models behind one OpenAI-compatible address, each request by the model that a policy chooses.

    The config is read again whenever it changes, and on SIGHUP.

    \b
    Examples:
      roster gateway --example > gateway.yaml
      roster gateway gateway.yaml --check --offline
    """
    try:
        import aiohttp  # noqa: F401
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise RosterError(f"the gateway needs {error.name}: pip install 'roster-moe[gateway]'") from None
    from roster.gateway import serving

    if example:
        typer.echo((Path(serving.__file__).parent / "example.yaml").read_text(encoding="utf-8"), nl=False)
        return
    if config is None:
        raise RosterError("give a config file; `roster gateway --example` prints one")
    if offline and not check:
        raise RosterError("--offline is of use with --check only")
    if check:
        faults = asyncio.run(serving.check(config, offline))
        if faults:
            raise RosterError(f"{config}: {'; '.join(faults)}")
        typer.echo(f"{config}: good")
        return
    asyncio.run(serving.serve(config))
