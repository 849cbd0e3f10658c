"""A library: a folder of adapters of one base, as people have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from roster.errors import RosterError, nearest
from roster.library.adapter import Adapter
from roster.library.fingerprint import digest, fingerprint
from roster.library.fits import check_fits
from roster.library.reading import CONFIG, read_adapter


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
    def read(cls, folder: str | Path) -> Library:
        """Every sub-folder with an adapter_config.json, in the order of the names.

        Raises:
            RosterError: no such folder, nothing in it, an adapter instead of a folder of them, or a bad adapter.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise RosterError(f"there is no folder {str(folder)!r}")
        if (folder / CONFIG).exists():
            raise RosterError(f"{str(folder)!r} is one adapter; give the folder above it, which holds several")
        paths = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
        if not paths:
            raise RosterError(f"{str(folder)!r} holds no adapters (sub-folders with an {CONFIG})")
        return cls({path.name: read_adapter(path) for path in paths})

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
        """Holds every adapter against a model; RosterError on the first that does not fit."""
        known = {a.card.base_hash for a in self._adapters.values() if a.card.base_hash is not None}
        actual = digest(fingerprint(model)) if known else None
        for adapter in self._adapters.values():
            check_fits(adapter, model)
            if actual is not None and adapter.card.base_hash not in (None, actual):
                raise RosterError(
                    f"expert {adapter.name!r} belongs to a base with the hash {adapter.card.base_hash[:12]}, but this "
                    f"model hashes to {actual[:12]}: its weights are others (quantised, fine-tuned or merged ones?)"
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
        first = next(iter(self._adapters.values()))
        for adapter in self._adapters.values():
            for what, mine, theirs in (
                ("base", first.config.base_model_name_or_path, adapter.config.base_model_name_or_path),
                ("base hash", first.card.base_hash, adapter.card.base_hash),
            ):
                if mine is not None and theirs is not None and mine != theirs:
                    raise RosterError(
                        f"adapters of different bases: {first.name!r} has {what} {mine!r}, "
                        f"{adapter.name!r} has {theirs!r}"
                    )
