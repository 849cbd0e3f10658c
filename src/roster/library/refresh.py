"""Bringing the cards of a library up to date with its weights."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from roster.errors import RosterError
from roster.library.fingerprint import digest, fingerprint, is_whole
from roster.library.fits import check_fits
from roster.library.folder import adapter_folders
from roster.library.reading import read_adapter
from roster.shelf.card import Card


def refresh_cards(folder: str | Path, model: nn.Module | None = None) -> dict[str, Card]:
    """Writes the hashes into every card of a library; makes the cards that are missing.

    What a person wrote stays as it is. Nothing is written unless every adapter can be read and fits.

    Args:
        folder: the library.
        model: the base, unquantised, to check the adapters against and to record; without it the cards keep the base
            they name.

    Returns:
        The cards that changed, by adapter.

    Raises:
        RosterError: an adapter that cannot be read or does not fit, or a model that is quantised.
    """
    if model is not None and not is_whole(model):
        raise RosterError("a quantised or partly loaded model cannot be recorded as the base: load it in full")
    base_hash = None if model is None else digest(fingerprint(model))
    changed = {}
    for path in adapter_folders(folder):
        adapter = read_adapter(path, stale_card=True)
        if model is not None:
            check_fits(adapter, model)
        card = adapter.card.model_copy(
            update={
                "weights_hash": adapter.weights_hash,
                "base": adapter.card.base or adapter.config.base_model_name_or_path or None,
                "base_hash": base_hash or adapter.card.base_hash,
            }
        )
        if card != adapter.card:
            changed[path] = card
    for path, card in changed.items():
        card.write(path)
    return {path.name: card for path, card in changed.items()}
