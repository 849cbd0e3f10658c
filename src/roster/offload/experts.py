"""Experts that are not all in memory: a block's experts module, served from the cache, with the bits of the whole one.

What rounds is done as transformers does it: one matmul per expert on the same rows in the same order, and everything
between the matmuls on all rows at once. So all its ways to run experts are served (`experts_implementation=`):
"grouped_mm" by the function here, "eager" and "batched_mm" by transformers' own code, which finds tensors that are read
when they are indexed.

Shape legend: T tokens, K chosen per token, S = T * K, D model width, F expert width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from roster.errors import RosterError
from roster.offload.engine import Engine
from roster.offload.int8 import has_kernel, multiplied, numbers
from roster.offload.layout import Site
from roster.offload.predicting import Votes

SITE = "_roster_offloaded"
_WAYS = ("eager", "batched_mm", "grouped_mm")
_MANY = 64
"""Tokens from which on the order of a token's choices is not worth keeping."""


class OffloadedSite:
    """One block's experts.

    Args:
        engine: the cache.
        layer: the block's number.
        site: what is stored of it.
    """

    def __init__(self, engine: Engine, layer: int, site: Site) -> None:
        self.engine, self.layer, self.site = engine, layer, site
        self.next_block: nn.Module | None = None
        self.extra = 0
        self._numbers = {part.name: number for number, part in enumerate(site.parts)}

    def tensor(self, name: str, expert: int) -> Tensor:
        """A parameter of one expert, without its first axis."""
        return self.engine.part(self.layer, expert, self._numbers[name])

    def forward(self, experts: Any, whole: Callable[..., Tensor], hidden: Tensor, *given: Any, **named: Any) -> Tensor:
        """What the block asks its experts for: hidden states, who was chosen, with what weight."""
        chosen, weight = (*given, *named.values())
        way = experts.config._experts_implementation
        if way not in _WAYS:
            raise RosterError(
                f"experts_implementation={way!r} needs all experts in memory; offloaded ones run as {', '.join(_WAYS)}"
            )
        with self.engine.calls, torch.no_grad():
            order = self.engine.need(
                self.layer,
                votes_of(chosen, self.site.num_experts),
                "parts" if way == "grouped_mm" else "experts",
                None if self.next_block is None else functools.partial(gate_votes, self.next_block, hidden, self.extra),
            )
            try:
                if way == "grouped_mm":
                    return self._grouped(experts, order, hidden, chosen, weight)
                return whole(hidden, *given, **named)
            finally:
                self.engine.done()

    def _grouped(self, experts: Any, order: list[int], x_TD: Tensor, chosen_TK: Tensor, weight_TK: Tensor) -> Tensor:
        """As transformers' `grouped_mm_experts_forward`, expert by expert."""
        K = chosen_TK.shape[-1]
        expert_S, perm_S = torch.sort(chosen_TK.reshape(-1))
        rows_SD, weight_S = x_TD[perm_S // K], weight_TK.reshape(-1)[perm_S]
        counts = torch.bincount(expert_S, minlength=self.site.num_experts).tolist()
        starts = [0]
        for each in counts:
            starts.append(starts[-1] + each)
        groups = {expert: slice(starts[expert], starts[expert + 1]) for expert in order}
        first = "gate_up_proj" if experts.has_gate else "up_proj"
        middle = self._linear(experts, first, rows_SD, expert_S, groups)
        middle_SF = experts._apply_gate(middle) if experts.has_gate else experts.act_fn(middle)
        out_SD = self._linear(experts, "down_proj", middle_SF, expert_S, groups)
        if getattr(experts, "has_post_expert_norm", False):
            out_SD = experts.post_expert_norm(out_SD)
        weighted_SD = out_SD * weight_S[:, None]
        back_S = torch.empty_like(perm_S)
        back_S[perm_S] = torch.arange(len(perm_S), device=perm_S.device)
        return weighted_SD[back_S].view(len(x_TD), K, -1).sum(dim=1).to(x_TD.dtype)

    def _linear(self, experts: Any, name: str, rows: Tensor, expert_S: Tensor, groups: dict[int, slice]) -> Tensor:
        part = self.site.parts[self._numbers[name]]
        spec = part.spec
        width = spec.shape[1] if experts.is_transposed else spec.shape[0]
        out = rows.new_empty(len(rows), width, dtype=spec.dtype)
        for expert, group in groups.items():
            if part.int8 and not experts.is_transposed and has_kernel(rows[group], spec.dtype):
                share = self.engine.share(self.layer, expert, self._numbers[name])
                out[group] = multiplied(rows[group].to(spec.dtype), *numbers(share, spec.shape))
                continue
            weight = self.tensor(name, expert)[None]
            ends = torch.tensor([group.stop - group.start], dtype=torch.int32, device=rows.device)
            matrix = weight if experts.is_transposed else weight.mT
            out[group] = functional.grouped_mm(rows[group].to(spec.dtype), matrix, offs=ends)
        return out.add_(getattr(experts, f"{name}_bias")[expert_S]) if experts.has_bias else out


class Indexed:
    """Stands where a stacked parameter [E, ...] was; an expert is read when it is asked for.

    Args:
        site: whose it is.
        name: of the parameter.
        shape, dtype: of the whole.
    """

    def __init__(self, site: OffloadedSite, name: str) -> None:
        spec = site.site.parts[site._numbers[name]].spec
        self.site, self.name = site, name
        self.shape = torch.Size((site.site.num_experts, *spec.shape))
        self.dtype, self.device = spec.dtype, site.engine.device

    def __getitem__(self, index: Any) -> Tensor:
        """One expert's tensor for a number; a copy of several, stacked, for a vector of numbers."""
        if not isinstance(index, Tensor) or index.dim() == 0:
            return self.site.tensor(self.name, int(index))
        out = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype, device=self.device)
        for expert in index.unique().tolist():
            out[index == expert] = self.site.tensor(self.name, expert)
        return out

    def __len__(self) -> int:
        return self.shape[0]


class _Offloaded(nn.Module):
    """Mixin: the module's own class, with its forward in the cache's hands."""

    def forward(self, hidden: Tensor, *given: Any, **named: Any) -> Tensor:
        """As the block calls it."""
        site = cast(OffloadedSite, self.__dict__[SITE])
        return site.forward(self, super().forward, hidden, *given, **named)


@functools.cache
def offloaded_class(base: type) -> type:
    """A class of experts whose tensors come from a cache."""
    return type(base.__name__, (_Offloaded, base), {"__module__": base.__module__, "base_class": base})


def put(experts: nn.Module, site: OffloadedSite) -> None:
    """Makes a module, whose stacked parameters have been taken off, one that is served from the cache."""
    kind: type = type(experts)
    experts.__class__ = offloaded_class(kind)
    experts.__dict__[SITE] = site
    for part in site.site.parts:
        experts.__dict__[part.name] = Indexed(site, part.name)


def votes_of(chosen: Tensor, num_experts: int) -> Votes:
    """Tokens by expert of [T, K] choices, by rank where there are few tokens; a number past the last is nobody."""
    if chosen.shape[0] > _MANY:
        counts = torch.bincount(chosen.reshape(-1), minlength=num_experts)[:num_experts].tolist()
        return {expert: tokens for expert, tokens in enumerate(counts) if tokens}
    votes: dict[int, int] = {}
    for expert in chosen.T.reshape(-1).tolist():
        if expert < num_experts:
            votes[expert] = votes.get(expert, 0) + 1
    return votes


@torch.no_grad()
def gate_votes(block: nn.Module, hidden: Tensor, extra: int) -> Votes:
    """What a block's gate would choose for these hidden states, [T, D]; `extra` more for each token.

    Empty where the gate's answer is not understood.
    """
    chosen_TK = gate_choices(block, hidden, extra)
    return {} if chosen_TK is None else votes_of(chosen_TK, int(chosen_TK.max()) + 1)


@torch.no_grad()
def gate_choices(block: nn.Module, hidden: Tensor, extra: int) -> Tensor | None:
    """Choices [T, K + extra] of a block's gate, by rank; None where its answer is not understood."""
    gate = next((child for name, child in block.named_children() if name in ("gate", "router")), None)
    if gate is None:
        return None
    try:
        answer = gate(hidden)
    except (TypeError, ValueError, IndexError, RuntimeError):  # it wants to know more than the tokens
        return None
    if not isinstance(answer, tuple):
        return None
    tensors = [each for each in answer if isinstance(each, Tensor) and each.dim() == 2 and len(each) == len(hidden)]
    chosen = next((each for each in tensors if not each.is_floating_point()), None)
    if chosen is None:
        return None
    scores = next((each for each in tensors if each.is_floating_point() and each.shape[1] > chosen.shape[1]), None)
    if not extra or scores is None:
        return chosen
    # The chosen first, whatever else decided (groups, corrections); then the best of the others.
    others = scores.scatter(1, chosen, -torch.inf).topk(min(extra, scores.shape[1] - chosen.shape[1]), dim=1).indices
    return torch.cat([chosen, others], dim=1)
