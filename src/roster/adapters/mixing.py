"""Mixing: what a recipe says about a mixture of adapters, and what it is told about the places where it routes.

Shape legend: E experts, I and O widths of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from roster.prompts import Rendering
from roster.routed.plan import Plan
from roster.router import Router

if TYPE_CHECKING:
    # Recipes are listed without reading adapters, and reading adapters means importing PEFT and transformers.
    from roster.library import Library, LowRank


@dataclass(frozen=True)
class Site:
    """One place where routes are decided or used.

    Attributes:
        name: of the module in the base model; "model" for the whole.
        index: its place among all linear sites (or blocks), counted from 0.
        width: of what the router reads here; 0 when it reads nothing.
        out_features: of the linear layer; 0 for a block or the whole model.
        experts: names of the experts, in the order of the route.
        updates: each expert's update of this linear layer, None where it has none.
        num_sites: how many linear sites (or blocks) there are.
        tasks: names of the known tasks, in the order of the task ids.
        depth: how many blocks the base has; 0 where only a layer or a block is meant.
        bias_O: of the linear layer; None where it has none.
    """

    name: str
    index: int
    width: int
    out_features: int
    experts: tuple[str, ...]
    updates: tuple[LowRank | None, ...]
    num_sites: int
    tasks: tuple[str, ...] = ()
    depth: int = 0
    bias_O: Tensor | None = None

    @property
    def num_experts(self) -> int:
        """E."""
        return len(self.experts)

    @property
    def factors(self) -> list[tuple[Tensor, Tensor, float] | None]:
        """(A [r, I], B [O, r], scale) of each expert here, None where it has none."""
        return [None if each is None else (each.A_RD, each.B_OR, each.scale) for each in self.updates]


@dataclass(frozen=True)
class Surroundings:
    """What a recipe may look at once, when a mixture is first built: never at reload, when the folder knows it all.

    Attributes:
        model: the base model, before anything is attached.
        library: the experts with their cards.
        tokenizer: of the base; None when the caller gave none.
        template: whether prompts go through its chat template, where it has one.
    """

    model: nn.Module
    library: Library
    tokenizer: Any = None
    template: bool = True

    @property
    def rendering(self) -> Rendering | None:
        """How prompts become tokens; None without a tokenizer."""
        return None if self.tokenizer is None else Rendering(self.tokenizer, self.template)


@dataclass(frozen=True)
class Mixing(Plan):
    """A composition of parts for a mixture of adapters.

    Attributes:
        (beside those of `Plan`)
        router: makes the router of one site, with its buffers not yet filled.
        at: where routes are decided: once per "linear" layer, per "block", or once for the whole "model".
        head: makes a module that runs once per call before the layers, `(hidden_BSD, context) -> hidden_BSD`; what
            it returns is what a router at "model" reads, and it may leave things in the context's memory.
        head_reads: "embeddings"; "first pass": the last hidden states of the base without any expert; or "prompt":
            hidden states of the base at the prompt alone, by which the head decides once (see `routed.deciding`).
        prepare: fills one router's (or the head's) buffers from the surroundings, at the first build.
        experts: makes the experts of a linear site; by default LoRA experts from the library's updates.
        average: see `LowRankExperts`.
        search: finds the constant weights of the router at "model" without gradients, in place of training:
            `(loss of weights_E, where to start, how often to ask, seed) -> weights_E`.
        one_per_prompt: whether a row is served by one expert at full weight, or by none: what soft prompts need, which
            cannot be weighed.
        causal: whether a token's output is independent of the tokens after it; False is refused on models that write.
    """

    router: Callable[[Site], Router]
    at: Literal["linear", "block", "model"] = "linear"
    head: Callable[[Site], nn.Module] | None = None
    head_reads: Literal["embeddings", "first pass", "prompt"] = "embeddings"
    prepare: Callable[[Any, Site, Surroundings], None] | None = None
    experts: Callable[[Site], nn.Module] | None = None
    average: Literal["updates", "factors"] = "updates"
    search: Callable[[Callable[[Tensor], float], Tensor, int, int], Tensor] | None = None
    one_per_prompt: bool = False
    causal: bool = True

    def __post_init__(self) -> None:
        """Where a prompt is decided on, every row must have one, and its decision lasts for the answer."""
        if self.decides:
            object.__setattr__(self, "reads_prompt", True)
            object.__setattr__(self, "remembers", True)

    @property
    def two_passes(self) -> bool:
        """Whether the base runs once more, alone, before the answer is computed."""
        return self.head is not None and self.head_reads == "first pass"

    @property
    def decides(self) -> bool:
        """Whether the base reads each prompt once more, alone, and its rows are decided on by that."""
        return self.head is not None and self.head_reads == "prompt"
