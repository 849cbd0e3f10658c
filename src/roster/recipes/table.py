"""The documentation's method table, made from the recipes: `python -m roster.recipes.table > docs/methods.md`."""

from __future__ import annotations

from collections import Counter

from roster.recipes import RECIPES
from roster.recipes.recipe import Recipe


def page() -> str:
    """The page as Markdown."""
    lines = [
        "# Methods",
        "",
        "Generated from the recipes by `python -m roster.recipes.table > docs/methods.md`; `roster methods` prints the",
        "same, and `roster methods NAME` a method whole. Verdicts are those of [the protocol](evidence.md).",
        "",
        _counts(),
        "",
        "| name | kind | method | trains | needs | batch-invariant | claim | evidence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_row, RECIPES.values()), ""])


def _counts() -> str:
    found = Counter(recipe.claim_verdict for recipe in RECIPES.values() if recipe.claim is not None)
    told = ", ".join(f"{found[word]} {word}" for word in ("shown", "refuted", "undecided"))
    return f"{len(RECIPES)} methods, {found.total()} of them with a claim: {told}."


def _row(recipe: Recipe) -> str:
    claim = "–" if recipe.verdict is None else f"{recipe.claim} **{recipe.verdict.word}** ({recipe.verdict.reason})"
    source = recipe.title if recipe.source == "roster" else f"{recipe.title} ({recipe.source})"
    needs = ", ".join(recipe.needs) or "–"
    invariant = "yes" if recipe.batch_invariant else "no"
    cells = (f"`{recipe.slug}`", recipe.kind, source, recipe.trains, needs, invariant, claim, f"`{recipe.evidence}`")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(page(), end="")
