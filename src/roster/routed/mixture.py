"""What belongs to a routed model as a whole, beside what is per layer: its method, its experts, how prompts are read.

The model itself is in `model.py`; each kind of mixture has a class of its own below this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed import ProcessGroup

from roster.context import ContextSlot
from roster.errors import RosterError
from roster.experts import VirtualTokens
from roster.prompts import Rendering
from roster.routed.generation import Generation
from roster.routed.plan import Plan
from roster.routed.taps import Wish
from roster.router import Router
from roster.saving import Wanted


class Mixture(nn.Module):
    """What belongs to the model as a whole: the head, the router for all layers, and who the experts are.

    Attributes:
        experts: names of the experts, in the order of every route.
        tasks: the known tasks, in the order of the task ids.
        recipe, options: the method and its arguments.
        tokenizer: of the base, where one was given.
        virtual: the soft prompts among the experts; None where there are none.
        template: whether prompts go through the tokenizer's chat template, where it has one.
        processes: those that train this model together, each on a part of every batch; None where one does. See
            `roster.moe.spread`.
        base_name: how the base is called where others can find it; None for a folder of this machine.
    """

    def __init__(
        self, plan: Plan, experts: Sequence[str], tasks: Sequence[str], recipe: str, options: Mapping[str, Any]
    ):
        super().__init__()
        self.plan, self.recipe, self.options = plan, recipe, dict(options)
        self.experts, self.tasks = tuple(experts), tuple(tasks)
        self.tokenizer: Any = None
        self.template = True
        self.base_name: str | None = None
        self.processes: ProcessGroup | None = None
        self.slot = ContextSlot()
        self.generation = Generation()
        self.wish = Wish()
        self.recorder: Any = None
        self.virtual: VirtualTokens | None = None
        self.head: nn.Module | None = None
        self.router: Router | None = None

    @property
    def rendering(self) -> Rendering:
        """How prompts become tokens; RosterError without a tokenizer."""
        if self.tokenizer is None:
            raise RosterError(
                "this model has no tokenizer: set model.roster.tokenizer, or pass tokenizer= to roster.load"
            )
        return Rendering(self.tokenizer, self.template)

    def save(self, model: Any, folder: Path, wanted: Wanted) -> None:
        """Writes the model that this belongs to; each kind of mixture knows its own folder."""
        raise NotImplementedError

    def merge(self, model: Any, task: str | None, rank: int | None) -> Any:
        """The plain thing that does what this mixture does, for kinds that have one."""
        raise RosterError(
            f"recipe {self.recipe!r} routes feed-forward blocks, which no single adapter can replace; "
            "roster.moe.export writes such a model as an existing architecture where one can express it"
        )
