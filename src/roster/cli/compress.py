"""`roster compress`: a mixture of experts, made smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from roster.cli.common import console, quiet
from roster.cli.writing import Asking, EvalOption, Progress, place
from roster.errors import RosterError
from roster.options import parse_options


def compress(
    mixture: Annotated[str, typer.Argument(help="A mixture: a folder or a hub name.")],
    method: Annotated[str, typer.Option(help="The method, see above.")],
    to: Annotated[str | None, typer.Option(help="Experts a layer (4), a share (50%) or a size (20GB).")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="JSONL to calibrate on; without it, Python's documentation.")
    ] = None,
    retain: Annotated[Path | None, typer.Option(help="uoe-unlearning: JSONL of what to keep.")] = None,
    student: Annotated[str | None, typer.Option(help="moe-kd-ka-sar: the dense model that learns.")] = None,
    rows: Annotated[int, typer.Option(help="Calibration rows at most.")] = 64,
    length: Annotated[int, typer.Option(help="Tokens of a row at most.")] = 512,
    option: Annotated[list[str] | None, typer.Option(help="name=value, for the method; repeatable.")] = None,
    device: Annotated[str, typer.Option(help="Where layers run, one at a time.")] = "cpu",
    max_shard_size: Annotated[str, typer.Option(help="Of one output file.")] = "5GB",
    plan: Annotated[bool, typer.Option("--plan", help="Calibrate, print what would be written, and stop.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder by the new one.")] = False,
    prove: Annotated[bool, typer.Option(help="Afterwards load old and new, whole, and compare losses.")] = True,
    evaluation: EvalOption = None,
) -> None:
    """Make a mixture of experts smaller, one layer in memory at a time; a killed run goes on when started again.

    - reap, expert-use: drop the experts whose answers count least, or that are used least;
    - ream, mc-smoe, uncurl: merge experts into fewer;
    - moe-pruner: set single weights to 0 (--to 50% or 2:4), the file stays as large;
    - uoe-unlearning: make the one expert forget that --data engages most (--retain is kept);
    - moe-kd-ka-sar: distil it into a dense --student.

    Rows of --data have messages, text, or prompt and answer. What no stock loader could read is refused at once.
    Of old and new, --eval measures perplexity, multiple choice and generation apart: they rank methods differently.

    \b
    Examples:
      roster convert pocket --to upcycling --option copies=4 --out my-copies
      roster compress my-copies --method reap --to 2 --rows 2 --out my-small
      roster compress my-copies --method ream --to 50% --rows 2 --out my-merged
      roster pocket data --split test --count 2 > test.jsonl
      roster compress my-copies --method reap --to 2 --rows 2 \\
        --eval test.jsonl --out my-fewer
      roster pocket data --skill reverse --count 4 --out forget.jsonl
      roster pocket data --skill sort --count 4 --out keep.jsonl
      roster compress my-copies --method uoe-unlearning --data forget.jsonl \\
        --retain keep.jsonl --option steps=2 --out my-forgetful
      roster compress my-copies --method moe-kd-ka-sar --student pocket \\
        --data forget.jsonl --option steps=2 --out my-student
    """
    from roster.compress import decide as calibrated
    from roster.compress import make_method, open_mixture, plan_compress, read_texts
    from roster.weights import parse_size, run
    from roster.weights.afterwards import Afterwards

    _check(method, to, retain, student)
    if out is None and not plan:
        raise RosterError("give --out FOLDER, or --plan to see what would be written")
    if out is not None and out.exists() and not overwrite and not plan:
        raise RosterError(f"{str(out)!r} is there already; choose another folder, or give --overwrite")
    asking = Asking(evaluation, plan)
    if method in _TRAINED:
        if plan or out is None or device != "cpu":
            raise RosterError(f"{method} trains, on the CPU: it has no --plan and no --device, and needs --out")
        options = {"rows": rows, "length": length, "overwrite": overwrite, **parse_options(option or [])}
        _train(method, mixture, out, data, retain, student, options)
        if asking:
            old = {each: place(each) for each in (mixture, student) if each is not None}
            quality = asking.answered(old, out)
            shown = Afterwards("compress", method, tuple(old), quality=quality)
            typer.echo(f"report: {shown.write(out)}")
        return
    assert to is not None  # checked above
    opened = open_mixture(mixture)
    made = make_method(method, opened, to, parse_options(option or []))
    shard = parse_size(max_shard_size)
    quiet()
    texts = read_texts(data, opened.source.folder, rows, length)
    decisions = calibrated(made, opened, texts, device, _told)
    planned = plan_compress(made, decisions, to, texts, shard)
    if plan or out is None:
        typer.echo(planned.text())
        return
    typer.echo(planned.text(every=False))
    run(planned, out, overwrite=overwrite, progress=Progress("compressing", planned.bytes_to_write))
    before = sum(spec.nbytes for spec in opened.source.specs.values())
    typer.echo(f"wrote {out}: {planned.bytes_to_write:,} bytes of {before:,}")
    proof = {}
    if prove:
        from roster import convert

        found = convert.prove(opened.source.folder, out)
        proof = {**vars(found), "exact": found.exact, "text": found.text()}
        typer.echo(f"against {mixture}: {found.text()}")
    quality = asking.answered({mixture: mixture}, out) if asking else {}
    sizes = {"old": before, "new": planned.bytes_to_write}
    shown = Afterwards("compress", planned.title, (mixture,), sizes, proof, quality)
    typer.echo(f"report: {shown.write(out)}")


_TRAINED = ("uoe-unlearning", "moe-kd-ka-sar")


def _check(method: str, to: str | None, retain: Path | None, student: str | None) -> None:
    """Raises RosterError: what a method needs and has not got, or has got and would not read."""
    from roster.compress import find_method

    if method not in _TRAINED:
        find_method(method, _TRAINED)
    for given, name, wanted in (
        (to, "--to", method not in _TRAINED),
        (retain, "--retain", method == "uoe-unlearning"),
        (student, "--student", method == "moe-kd-ka-sar"),
    ):
        if (given is not None) != wanted:
            raise RosterError(f"{method} {'needs' if wanted else 'reads no'} {name}")


def _train(
    method: str,
    mixture: str,
    out: Path,
    data: Path | None,
    retain: Path | None,
    student: str | None,
    options: dict[str, Any],
) -> None:
    from roster import compress as room

    quiet()
    if method == "uoe-unlearning":
        if data is None:
            raise RosterError("uoe-unlearning needs --data, of what to forget")
        target = room.forget(mixture, out, data, str(retain), progress=_told, **options)
        typer.echo(f"wrote {out}: expert {target.expert} of layer {target.layer} forgot")
        return
    told = room.distil(mixture, out, place(str(student)), data, progress=_stepped, **options)
    typer.echo(f"wrote {out}: reverse KL {told[0]:.4f} -> {told[-1]:.4f} nats per token")


def _stepped(done: int, count: int) -> None:
    if done % max(count // 10, 1) == 0:
        console(stderr=True).print(f"step {done} of {count}", highlight=False)


def _told(done: int, count: int) -> None:
    console(stderr=True).print(f"calibrated layer {done} of {count}", highlight=False)
