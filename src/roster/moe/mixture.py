"""What belongs to a model with routed blocks as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roster.moe.manifest import Adopted, Replaced
from roster.moe.writing import save
from roster.routed.mixture import Mixture
from roster.saving import Wanted


class BlockMixture(Mixture):
    """A `Mixture` whose experts are blocks of the model itself.

    Attributes:
        made: how the blocks came to be routed (`roster.moe.manifest.Made`), so that a folder can say it.
        unsaved: when `made` is None, why.
    """

    made: Replaced | Adopted | None = None
    unsaved: str = ""

    def save(self, model: Any, folder: Path, wanted: Wanted) -> None:
        """Writes the whole model; there is no base apart from it."""
        save(model, folder, wanted)
