"""`roster methods`: the catalogue, a line for each method, or one method whole."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.common import complain, console, table

if TYPE_CHECKING:
    from roster.recipes import Recipe

_KEYS = ("kind", "source", "trains", "batch_invariant", "claim", "claim_shown", "claim_verdict", "evidence")
_KINDS = ("mixture", "moe", "lm", "offload", "place", "study")
_VERDICTS = ("shown", "refuted", "undecided", "none")


def methods(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="A method's name, for it whole; or words that all have to occur."),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind: mixture, moe, lm, offload, place, study.")] = None,
    verdict: Annotated[
        str | None, typer.Option(help="Only these claims: shown, refuted, undecided, or none for yardsticks.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, keyed by slug.")] = False,
) -> None:
    """List the methods, one line each, with the verdict on each method's claim; or show one whole.

    Of the kind "mixture" are routers among adapters, of "moe" among feed-forward blocks, of "lm" among whole models;
    "offload" strategies run mixtures larger than memory, "place" lays experts onto devices; a "study" is something to
    run. A claim is shown, refuted or undecided by roster's own checks, see docs/evidence.md.

    \b
    Examples:
      roster methods
      roster methods --kind lm --verdict shown
      roster methods load balance
      roster methods rmoe
      roster methods rmoe --json
    """
    from roster.errors import nearest
    from roster.recipes import RECIPES

    for value, known, name in ((kind, _KINDS, "kind"), (verdict, _VERDICTS, "verdict")):
        if value is not None and value not in known:
            complain(f"--{name} {value!r}: {nearest(value, known)}")
    asked = [word.lower() for word in words or []]
    if len(asked) == 1 and asked[0] in RECIPES:
        _show_one(RECIPES[asked[0]], as_json)
        return
    found = [recipe for recipe in RECIPES.values() if _matches(recipe, asked, kind, verdict)]
    if not found:
        hint = f" ({nearest(asked[0], RECIPES)})" if len(asked) == 1 else ""
        complain(f"no method matches{hint}")
    if as_json:
        typer.echo(json.dumps({each.slug: _fields(each) for each in found}, indent=1))
        return
    _show_list(found)


def _matches(recipe: Recipe, words: list[str], kind: str | None, verdict: str | None) -> bool:
    text = f"{recipe.slug} {recipe.title} {recipe.source} {recipe.claim} {recipe.description}".lower()
    right_verdict = verdict in (None, recipe.claim_verdict or "none")
    return kind in (None, recipe.kind) and right_verdict and all(word in text for word in words)


def _fields(recipe: Recipe) -> dict[str, Any]:
    return {key: getattr(recipe, key) for key in _KEYS}


def _show_list(found: list[Recipe]) -> None:
    from rich.markup import escape

    made = table("name", "kind", "trains", "verdict", "method")
    made.columns[0].no_wrap = True
    for recipe in found:
        made.add_row(recipe.slug, recipe.kind, recipe.trains, recipe.claim_verdict or "–", escape(recipe.title))
    console().print(made)
    console().print(f"{len(found)} methods; `roster methods NAME` shows one whole", markup=False, highlight=False)


def _show_one(recipe: Recipe, as_json: bool) -> None:
    options = {name: None if value is inspect.Parameter.empty else value for name, value in recipe.options().items()}
    found = recipe.verdict
    if as_json:
        whole = _fields(recipe) | {"title": recipe.title, "description": recipe.description, "needs": recipe.needs}
        whole["options"] = {name: _plain(value) for name, value in options.items()}
        if found is not None:
            whole |= {"reason": found.reason, "declarations": found.declarations, "earlier": found.earlier}
        typer.echo(json.dumps({recipe.slug: whole}, indent=1))
        return
    for line in _told(recipe, options):
        console().print(line, markup=False, highlight=False, soft_wrap=True)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | list | dict | None) else repr(value)


def _told(recipe: Recipe, options: dict[str, Any]) -> list[str]:
    """One method in lines."""
    lines = [f"{recipe.slug}: {recipe.title}", f"source: {recipe.source}"]
    invariant = "yes" if recipe.batch_invariant else "no"
    needs = ", ".join(recipe.needs) or "nothing"
    lines += [f"kind: {recipe.kind}; trains: {recipe.trains}; needs: {needs}; batch-invariant: {invariant}"]
    lines += ["", recipe.description, "", "options: " + (", ".join(f"{n}={v!r}" for n, v in options.items()) or "none")]
    found = recipe.verdict
    if found is None:
        return [*lines, "", f"a yardstick, no claim; see {recipe.evidence}"]
    lines += ["", f"claim: {recipe.claim}", f"verdict: {found.word} ({found.reason})"]
    for each in found.declarations:
        lines += ["", f"declared as {each['name']}, version {each['version']}: {each['verdict']} ({each['reason']})"]
        lines += [f"  {each['claim']}", f"  ground: {each['ground']}", f"  budget: {each['budget']}"]
        lines += [f"  statistic: {each['statistic']} ({each['asks']}; smallest effect {each['effect']:g})"]
        lines += [
            f"  {role}: {mean:+.4g} [{low:+.4g}, {high:+.4g}]" for role, (mean, low, high) in each["gains"].items()
        ]
        lines += [f"  {each['seeds']} seeds, {each['date'] or 'not run yet'}"]
    if found.earlier is not None:
        said = "shown" if found.earlier["shown"] else "not shown"
        lines += ["", f"a check before the protocol said: {said} ({found.earlier['where']})"]
    return lines
