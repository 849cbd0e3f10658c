"""Which recipes of routers among models a command is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roster.errors import RosterError, nearest

if TYPE_CHECKING:
    from roster.lm.records import Records
    from roster.recipes import Recipe


def recipes_for(names: list[str] | None, records: Records) -> list[Recipe]:
    """The recipes asked for, or all that these data allow."""
    from roster.lm.offpolicy.counterfactual import one_each
    from roster.recipes import RECIPES

    known = {slug: recipe for slug, recipe in RECIPES.items() if recipe.kind == "lm"}
    has_answers = records.answer_NM is not None and not one_each(records)
    if names is None:
        # Random is always in the report, exactly.
        return [r for r in known.values() if r.slug != "lm-random" and (has_answers or "answers" not in r.needs)]
    for name in names:
        if name not in known:
            raise RosterError(f"unknown router among models {name!r}: {nearest(name, known)}")
        if "answers" in known[name].needs and not has_answers:
            raise RosterError(f"{name!r} compares answers of several models, and records {records.name!r} lack them")
    return [known[name] for name in names]
