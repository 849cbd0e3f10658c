"""What recipes need of a library, checked before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from roster.errors import RosterError

if TYPE_CHECKING:
    from roster.library import Library, LowRank  # listing recipes does not mean importing PEFT


def check_examples(library: Library, needed_by: str, written: bool = False) -> None:
    """RosterError, naming card and field, when a recipe reads example prompts that a library has not got.

    Args:
        library: the experts.
        needed_by: the recipe's name.
        written: whether a description is enough, from which the base can write examples.
    """
    for name, adapter in library.items():
        if adapter.card.examples or (written and adapter.card.description):
            continue
        where = "its card" if adapter.path is None else repr(str(adapter.path / "card.json"))
        raise RosterError(
            f"{needed_by} needs example prompts on every card; the card of expert {name!r} has none: write a few "
            f'(about 20) into the field "examples" of {where}, as users would type them, or give a file of them '
            "(--examples FILE.jsonl, examples=); a router that needs none is arrow-mbc (--router arrow-mbc)"
        )


def check_factors(update: LowRank, needed_by: str) -> None:
    """RosterError for an update without factors, (IA)3's, where a recipe reads them."""
    if not update.A_RD.shape[0]:
        raise RosterError(
            f"{needed_by} reads what adapters add, and an (IA)3 adapter adds nothing: it rescales what is there; take "
            "LoRAs, or another recipe (--router auto)"
        )
