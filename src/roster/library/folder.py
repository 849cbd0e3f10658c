"""A library: a folder of adapters of one base, as people have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from roster.errors import RosterError, nearest
from roster.library.adapter import Adapter
from roster.library.fingerprint import digest, fingerprint, is_whole
from roster.library.fits import check_fits
from roster.library.reading import read_adapter
from roster.shelf.folders import DEFAULT as DEFAULT
from roster.shelf.folders import adapter_folders as adapter_folders


class Library(Mapping[str, Adapter]):
    """An ordered mapping from names to adapters, all of one base.

    Raises:
        RosterError: no adapters, or adapters of different bases.
    """

    def __init__(self, adapters: Mapping[str, Adapter]):
        if not adapters:
            raise RosterError("a library needs at least one adapter")
        self._adapters = dict(adapters)
        self._one_base()

    @classmethod
    def read(cls, folder: str | Path, *, mapped: bool = False) -> Library:
        """Every sub-folder with an adapter_config.json, in the order of the names; PEFT's own "default" comes first.

        Args:
            folder: of PEFT adapters.
            mapped: leave the updates on disk and map them into memory, for folders that are larger than one wants to
                hold: only experts on duty are read. The files must stay as they are; recipes that train experts or
                average their factors refuse it.

        Raises:
            RosterError: no such folder, nothing in it, an adapter instead of a folder of them, or a bad adapter.
        """
        adapters = (read_adapter(path, mapped=mapped) for path in adapter_folders(folder))
        root = Path(folder).resolve()
        # PEFT writes the adapter called "default" into the folder itself, and the others below it.
        named = (
            replace(each, name=DEFAULT) if each.path is not None and each.path.resolve() == root else each
            for each in adapters
        )
        return cls({adapter.name: adapter for adapter in named})

    @property
    def names(self) -> list[str]:
        """The experts' names, in order."""
        return list(self._adapters)

    @property
    def module_names(self) -> list[str]:
        """Every module that at least one adapter updates, in the order of first mention."""
        return list(dict.fromkeys(name for adapter in self._adapters.values() for name in adapter.modules))

    def rank(self, module: str, name: str) -> int:
        """The rank of one expert's update of one module; 0 when it has none."""
        update = self[name].modules.get(module)
        return 0 if update is None else update.A_RD.shape[0]

    def check(self, model: nn.Module) -> None:
        """Holds every adapter against a model; RosterError on the first that does not fit.

        Where cards record their base's hash, the model's must be the same. A quantised model has no such hash: there
        only names and shapes are checked.
        """
        known = any(adapter.card.base_hash is not None for adapter in self._adapters.values())
        actual = digest(fingerprint(model)) if known and is_whole(model) else None
        for adapter in self._adapters.values():
            check_fits(adapter, model)
            if actual is not None and adapter.card.base_hash not in (None, actual):
                raise RosterError(
                    f"expert {adapter.name!r} belongs to a base with the hash {adapter.card.base_hash[:12]}, but this "
                    f"model hashes to {actual[:12]}: its weights are others (fine-tuned, merged, in float16?)"
                )

    def __getitem__(self, name: str) -> Adapter:
        if name not in self._adapters:
            raise RosterError(f"there is no expert {name!r}: {nearest(name, self._adapters)}")
        return self._adapters[name]

    def __contains__(self, name: object) -> bool:
        return name in self._adapters

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapters)

    def __len__(self) -> int:
        return len(self._adapters)

    def _one_base(self) -> None:
        hashes = {name: a.card.base_hash for name, a in self._adapters.items() if a.card.base_hash is not None}
        for name, base_hash in hashes.items():
            first = next(iter(hashes))
            if base_hash != hashes[first]:
                raise RosterError(
                    f"adapters of different bases: {first!r} belongs to a base with the hash {hashes[first][:12]}, "
                    f"{name!r} to one with {base_hash[:12]}"
                )
        bases = {n: b.rstrip("/") for n, a in self._adapters.items() if (b := a.config.base_model_name_or_path)}
        for name, base in bases.items():
            first = next(iter(bases))
            # Two names with one hash are one base, in two places.
            if base != bases[first] and not {first, name} <= hashes.keys():
                raise RosterError(
                    f"adapters of different bases: {first!r} belongs to {bases[first]!r}, {name!r} to {base!r}; if "
                    "these are one model in two places, record its hash with refresh_cards(folder, model)"
                )
