"""What belongs to a model with routed adapters as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roster.adapters.merging import Merged, merge_experts
from roster.adapters.writing import save
from roster.routed.mixture import Mixture
from roster.saving import Wanted


class AdapterMixture(Mixture):
    """A `Mixture` whose experts are adapters on a base that stays as it is.

    Attributes:
        adapters: the experts as they were read, without their tensors where the mixture holds these itself.
    """

    adapters: dict[str, Any]

    def save(self, model: Any, folder: Path, wanted: Wanted) -> None:
        """Writes experts and routers, and the base where it has no public name."""
        save(model, folder, wanted)

    def merge(self, model: Any, task: str | None, rank: int | None) -> Merged:
        """One plain PEFT adapter that does what the mixture does."""
        return merge_experts(model, task=task, rank=rank)
