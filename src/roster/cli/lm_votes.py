"""What `roster lm` does with logs of votes, and how it says its notes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import typer


def say(notes: Iterable[str]) -> None:
    """What a reader must know about the data, line by line."""
    for note in notes:
        typer.echo(f"note: {note}")


def import_votes(file: Path, out: Path, text: str, without: tuple[str, ...]) -> None:
    """A log of votes becomes a folder."""
    from roster.lm.text import text_rule
    from roster.lm.votes.ballots import read_votes
    from roster.lm.votes.storing import save_votes

    votes = read_votes(file, text=text_rule(text)).without(without)
    save_votes(votes, out)
    typer.echo(f"{len(votes)} votes, {len(votes.models)} models: " + ", ".join(votes.models))
    splits = ", ".join(f"{votes.splits.count(name)} {name}" for name in ("train", "validation", "test"))
    typer.echo(f"splits: {splits}; ties: {int((votes.share_V == 0.5).sum())}")
    say(votes.notes)


def evaluate_votes(
    folder: str, without: tuple[str, ...], random: tuple[int, int], out: Path | None, as_json: bool
) -> None:
    """The report on a folder of votes; `random` are the draws and the seed."""
    from roster.lm.votes.agreement import evaluate_votes as measure
    from roster.lm.votes.agreement import figure, write_report
    from roster.lm.votes.storing import load_votes

    report = measure(load_votes(folder).without(without), *random)
    if out is not None:
        write_report(report, out)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1, ensure_ascii=False))
        return
    for sentence in report.verdict:
        typer.echo(sentence)
    for row in report.rows:
        typer.echo(f"{row.title}: agreement {figure(row.agreement)}, log-loss {figure(row.log_loss)}")
    for model, strength in report.ranking:
        typer.echo(f"  {strength:+.3f} {model}")
    say(report.notes)
