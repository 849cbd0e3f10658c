"""The documentation's method table, made from the recipes: `python -m roster.recipes.table > docs/methods.md`."""

from __future__ import annotations

from roster.recipes import RECIPES
from roster.recipes.recipe import Recipe

_SHOWN = {True: "shown", False: "not shown here", None: "–"}


def page() -> str:
    """The page as Markdown."""
    lines = [
        "# Methods",
        "",
        "Generated from the recipes by `python -m roster.recipes.table > docs/methods.md`; `roster methods` prints the",
        "same. What differs from a source is in the recipe's docstring, under `src/roster/recipes/`.",
        "",
        "| name | kind | method | trains | needs | batch-invariant | claim | evidence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_row, RECIPES.values()), ""])


def _row(recipe: Recipe) -> str:
    claim = "–" if recipe.claim is None else f"{recipe.claim} **{_SHOWN[recipe.claim_shown]}**"
    source = recipe.title if recipe.source == "roster" else f"{recipe.title} ({recipe.source})"
    needs = ", ".join(recipe.needs) or "–"
    invariant = "yes" if recipe.batch_invariant else "no"
    cells = (f"`{recipe.slug}`", recipe.kind, source, recipe.trains, needs, invariant, claim, f"`{recipe.evidence}`")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(page(), end="")
