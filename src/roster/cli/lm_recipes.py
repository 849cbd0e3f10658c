"""Which recipes of routers among models a command is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roster.errors import RosterError, nearest

if TYPE_CHECKING:
    from roster.lm.records import Records
    from roster.recipes import Recipe


def recipes_for(names: list[str] | None, records: Records) -> tuple[list[Recipe], list[str]]:
    """The recipes asked for, or all that these data allow, with a note on each that they do not.

    Raises:
        RosterError: one that was asked for is not known, or the data do not allow it.
    """
    from roster.lm.lacking import lacking
    from roster.recipes import RECIPES

    known = {slug: recipe for slug, recipe in RECIPES.items() if recipe.kind == "lm"}
    # Random is always in the report, exactly.
    wanted = [slug for slug in known if slug != "lm-random"] if names is None else names
    for name in wanted:
        if name not in known:
            raise RosterError(f"unknown router among models {name!r}: {nearest(name, known)}")
    reasons = {name: lacking(known[name].needs, records) for name in wanted}
    without = {name: reason for name, reason in reasons.items() if reason is not None}
    if names is not None and without:
        name, reason = next(iter(without.items()))
        raise RosterError(f"{name!r} {reason}")
    return [known[name] for name in wanted if name not in without], [
        f"left out: {name}, for it {reason}" for name, reason in without.items()
    ]
