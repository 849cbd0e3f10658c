"""`roster demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roster.cli.common import console, progress_bar, quiet
from roster.cli.compare import tell
from roster.errors import RosterError

_REAL_EXAMPLES, _EXAMPLES = 2, 24


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("roster-report"),
    examples: Annotated[
        int | None, typer.Option(min=1, help="Test prompts per skill; by default 24, with --real 2 of each group.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts.")] = 0,
    methods: Annotated[str | None, typer.Option(help="Only these contenders, beside the base: a,b,c.")] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the report in a browser.")] = False,
    real: Annotated[bool, typer.Option("--real", help="On SmolLM2-135M-Instruct and its adapters.")] = False,
    experts: Annotated[Path | None, typer.Option(help="With --real: the adapters, if they lie elsewhere.")] = None,
) -> None:
    """Compare ways to use a folder of adapters, on the models that come with roster: one table, one HTML report.

    With --real, the same as `roster compare`, on a pretrained chat model and adapters of real skills (`roster smol
    prepare` fetches the model once): at most 15 minutes on 2 cores; a stopped run carries on.

    \b
    Examples:
      roster demo
      roster demo --examples 2 --methods uniform,arrow-mbc --out quick-report
      roster demo --real --out real-report
    """
    if real:
        if methods is not None or seed or show:
            raise RosterError(
                "--methods, --seed and --open are of the pocket models; `roster compare` has more options"
            )
        return _real(out, examples or _REAL_EXAMPLES, experts)
    if experts is not None:
        raise RosterError("--experts goes with --real; `roster compare BASE EXPERTS` compares on adapters of your own")
    from roster.arena.mix import demo as compare

    quiet()
    chosen = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    report = compare(out, examples or _EXAMPLES, seed, chosen, console())
    typer.echo(f"\nreport: {report.resolve()}")
    if show:
        typer.launch(report.resolve().as_uri())


def _real(out: Path, examples: int, experts: Path | None) -> None:
    from roster.arena.compare import Comparison, Terms, compare
    from roster.arena.ways import ways_of
    from roster.library import Library
    from roster.prompts import Rendering
    from roster.smol import adapters_path
    from roster.smol.base import load_base
    from roster.smol.comparison import NEW_TOKENS, rows

    library = Library.read(experts or adapters_path())
    try:
        asked = rows(library, examples)
    except ModuleNotFoundError as error:
        raise RosterError(f"the skills need the package {error.name}: pip install 'roster-moe[smol]'") from None
    ways = ways_of(library, asked, ["lora-tle:embed=hidden"], [])
    quiet()
    base, tokenizer = load_base()
    with progress_bar() as bars:
        terms = Terms(max_new_tokens=NEW_TOKENS, batch_size=40)
        result = compare(Comparison(base, library, Rendering(tokenizer), asked, terms, bars), ways, out)
    tell(result, asked, out)
