"""Experts that begin as the dense block that they replace ("upcycling": Komatsuzaki et al., 2022, arXiv:2212.05055).

With r = F / F_e, expert e begins with the e-th of r runs of the block's hidden units, counted cyclically, and 1 / r of
its last bias. So:
- when experts are as wide as the block (r = 1) each is a copy of it, and any weights that sum to 1 give the block's
  own output, whoever is chosen;
- when they are narrower and r divides E, all experts on duty with weight r / E each give the block's own output.

Shape legend: E experts, D model width, F width of the dense block, F_e of one expert.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from roster.errors import RosterError
from roster.experts import MLP, FeedForwardExperts, Gated


@torch.no_grad()
def start_dense(block: nn.Module, matrices: Mapping[str, Tensor], *, recipe: str, site: str) -> None:
    """Fills the experts of a mixture from a dense block.

    Args:
        block: what a recipe made, with fresh experts; where only a part of it begins as the dense block, it is its
            `from_dense`.
        matrices: of the dense block; see `roster.moe.blocks.Kind`.
        recipe, site: for messages.

    Raises:
        RosterError: experts that are not runs of the block's hidden units.
    """
    filled: Counter[int] = Counter()
    grown: nn.Module = getattr(block, "from_dense", block)
    parts = [each for each in grown.modules() if isinstance(each, FeedForwardExperts)]
    for experts in parts:
        F, F_e = matrices["down_FD"].shape[0], getattr(experts, "down_EFD", torch.empty(0, 1, 0)).shape[1]
        if not isinstance(experts, (Gated, MLP)) or F % F_e:
            raise RosterError(
                f"recipe {recipe!r} at {site!r}: {type(experts).__name__} of width {F_e} cannot begin as runs of the "
                f"{F} hidden units of the dense block; use start='fresh'"
            )
        runs = F // F_e
        for name, tensor in matrices.items():
            head, axes = name.rsplit("_", 1)
            # Each stack is `head_E...`; F is the axis that is cut.
            stack = getattr(experts, f"{head}_E{axes}")
            for expert in range(experts.num_experts):
                at = (filled[F_e] + expert) % runs * F_e
                own = tensor.narrow(axes.index("F"), at, F_e) if "F" in axes else tensor / runs
                stack[expert].copy_(own)
        filled[F_e] += experts.num_experts
    if not parts:
        raise RosterError(f"recipe {recipe!r} at {site!r} has no experts that could begin as the dense block")
