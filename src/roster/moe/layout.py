"""Layout: what a recipe says about a mixture of feed-forward blocks, and what it is told about the places it fills.

Shape legend: B batch rows, S tokens per row, D model width, F width of a dense block of equal cost, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from roster.errors import RosterError
from roster.moe.layer import MoE
from roster.routed.plan import Plan
from roster.router import Router


@dataclass(frozen=True)
class Place:
    """One feed-forward block of a model that becomes a mixture.

    Attributes:
        name: of the module in the model.
        index, count: which of the model's mixtures this is, counted from 0, and how many there are.
        width: D.
        hidden: F, the hidden units that one token may use. A recipe whose token visits k experts makes each F / k
            wide, so that all recipes cost the same per token.
        make_experts: `(E, width of each) -> experts` of the kind that the model's own block is (gated, plain, its
            activation, with or without biases).
        vocab_size: of the model's tokens, for recipes that read token ids.
        tasks: names of the known tasks, for recipes that read task ids.
        recipe: for error messages.
    """

    name: str
    index: int
    count: int
    width: int
    hidden: int
    make_experts: Callable[[int, int], nn.Module]
    vocab_size: int = 0
    tasks: tuple[str, ...] = ()
    recipe: str = ""

    def share(self, parts: int) -> int:
        """`hidden / parts`: the width of an expert of which a token visits `parts`.

        Raises:
            RosterError: the width does not divide.
        """
        if parts < 1 or self.hidden % parts:
            raise RosterError(
                f"recipe {self.recipe!r}: the {self.hidden} hidden units of {self.name!r} do not divide by {parts}"
            )
        return self.hidden // parts

    def check_choice(self, k: int, num_experts: int) -> None:
        """RosterError when more experts are to be chosen than there are."""
        if not 1 <= k <= num_experts:
            raise RosterError(
                f"recipe {self.recipe!r} chooses k={k} of num_experts={num_experts} at {self.name!r}: "
                "k must be at least 1 and at most num_experts"
            )


@dataclass(frozen=True)
class Layout(Plan):
    """A composition of parts for a mixture of feed-forward blocks.

    Attributes:
        (beside those of `Plan`)
        block: makes the module that takes one feed-forward block's place, `(x_BSD, context) -> [B, S, D]`; most
            often an `MoE`.
        reads_attention: whether a router reads the attention weights of its layer, which only the "eager" attention of
            transformers gives.
        at: what becomes routed: "feed-forward" blocks, whose place `block` takes, or "attention" blocks, which stay and
            are the only expert: `block` then makes what decides how much of them each token gets (see
            `roster.moe.attention`).
        kinds: which kind each expert is of, where they differ (in size, group, or node); experts of one kind are
            interchangeable. Empty: all alike.
        consistency: weight of the disagreement between two draws of random experts, which the training loss then
            contains (see `roster.train.consistency`); 0 for all others.
    """

    block: Callable[[Place], nn.Module]
    trains: frozenset[str] = field(default=frozenset({"router", "experts", "base"}), kw_only=True)
    reads_attention: bool = False
    kinds: tuple[int, ...] = ()
    consistency: float = 0.0
    at: Literal["feed-forward", "attention"] = "feed-forward"

    @classmethod
    def of(cls, router: Callable[[Place], Router], num_experts: int, k: int, **others: Any) -> Layout:
        """The plain layout: a mixture of experts of which each token visits `k`, each a k-th of a dense block wide.

        Args:
            router: makes the router of one place.
            num_experts: E.
            k: experts per token; F must divide by it.
            others: the layout's other attributes.
        """

        def block(place: Place) -> nn.Module:
            place.check_choice(k, num_experts)
            return MoE(router(place), place.make_experts(num_experts, place.share(k)))

        return cls(block, **others)
