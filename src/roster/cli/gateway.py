"""`roster gateway CONFIG`, and beside it `roster gateway key ...` and `roster gateway spend`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from roster.cli.common import console
from roster.errors import RosterError


class Serving(typer.core.TyperGroup):
    """A group whose command `serve` need not be named: `roster gateway gateway.yaml`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Called by typer with what follows `roster gateway`."""
        if args and args[0] not in (*self.commands, "--help"):
            args = ["serve", *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    cls=Serving,
    no_args_is_help=True,
    help="Serve models behind one OpenAI-compatible address; `roster gateway CONFIG` is short for `serve`.",
)
keys = typer.Typer(no_args_is_help=True, help="Issue API keys, list them, revoke them.")
app.add_typer(keys, name="key")
File = Annotated[Path, typer.Argument(help="The gateway's config file, YAML.")]


@app.command("serve")
def serve(
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
      roster gateway serve gateway.yaml --check --offline
    """
    _check_installed()
    import asyncio

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


@keys.command("create")
def create(
    config: File,
    name: Annotated[str, typer.Argument(help="Whose key it is; names are given out once.")],
    team: Annotated[str | None, typer.Option(help="Whose budget counts too, from the config.")] = None,
    models: Annotated[list[str] | None, typer.Option("--model", help="A name to ask for; may be repeated.")] = None,
    limits: Annotated[
        list[str] | None, typer.Option("--limit", help="budget=5, period=day, rpm=60 or tpm=10000; may be repeated.")
    ] = None,
    days: Annotated[float | None, typer.Option(min=0.001, help="Until it expires.")] = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="Answer the same request the same again, for nothing.")
    ] = False,
) -> None:
    """Make an API key and print it: the one time that it is shown. A running gateway knows it within seconds.

    \b
    Examples:
      roster gateway --example > gateway.yaml
      roster gateway key create gateway.yaml carol --limit budget=5 --limit rpm=60
    """
    _check_installed()
    from roster.gateway import issuing

    rules = {"team": team, "models": models or [], "cache": cache} | issuing.limits(limits or [])
    typer.echo(issuing.create(config, name, rules, days))


@keys.command("list")
def list_keys(config: File) -> None:
    """Print all keys that were issued, one JSON object a line.

    \b
    Examples:
      roster gateway --example > gateway.yaml
      roster gateway key list gateway.yaml
    """
    _check_installed()
    from roster.gateway import issuing

    for key in issuing.listed(config):
        typer.echo(json.dumps(key.told()))


@keys.command("revoke")
def revoke(config: File, name: Annotated[str, typer.Argument(help="Whose key it is.")]) -> None:
    """Make a key worthless, for ever. A running gateway refuses it within seconds.

    \b
    Examples:
      roster gateway --example > gateway.yaml
      roster gateway key create gateway.yaml carol --limit budget=5 --limit rpm=60
      roster gateway key revoke gateway.yaml carol
    """
    _check_installed()
    from roster.gateway import issuing

    issuing.revoke(config, name)


@app.command("spend")
def spend(
    config: File,
    by: Annotated[str, typer.Option(help="key, team, model, policy, day or experiment.")] = "key",
    days: Annotated[
        float | None, typer.Option(min=0.001, help="How far back; by default as far as calls are kept.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print what was spent, and how calls went.

    \b
    Examples:
      roster gateway --example > gateway.yaml
      roster gateway spend gateway.yaml --by model --days 7
    """
    _check_installed()
    from rich.table import Table

    from roster.gateway import issuing

    rows = issuing.spending(config, by, days)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row._asdict()))
        return
    table = Table(*(column.replace("what", by).replace("_", " ") for column in rows[0]._fields) if rows else (by,))
    for row in rows:
        table.add_row(*map(_cell, row))
    console().print(table)


@app.command("compare")
def compare(
    config: File, experiment: Annotated[str, typer.Argument(help="An experiment or a shadow of the config.")]
) -> None:
    """Print the arms of an experiment side by side, with the intervals of their differences to the first.

    \b
    Examples:
      roster gateway --example > gateway.yaml
      roster gateway compare gateway.yaml trial
    """
    _check_installed()
    from rich.table import Table

    from roster.gateway import issuing
    from roster.gateway.compare import MEASURES

    table = Table("policy", "calls", *MEASURES)
    for arm in issuing.comparison(config, experiment):
        table.add_row(arm.policy, str(arm.calls), *map(_cell, (arm.means[measure] for measure in MEASURES)))
        if arm.differences:
            shown = (arm.differences[measure] for measure in MEASURES)
            table.add_row("  difference [95 %]", "", *("–" if each is None else _interval(*each) for each in shown))
    console().print(table)


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:+.3g} [{low:+.3g}, {high:+.3g}]"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _check_installed() -> None:
    try:
        import aiohttp  # noqa: F401
        import cachetools  # noqa: F401
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise RosterError(f"the gateway needs {error.name}: pip install 'roster-moe[gateway]'") from None
