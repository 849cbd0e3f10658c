"""What `auto` reads of a prompt: the base's hidden states behind one block, over the last turn, pooled to one vector.

The very first token is left out: it draws an activation that is hundreds of times as large as all others, in every
prompt, so that a plain mean says nothing.

Shape legend: B batch rows, S tokens, D width, N prompts, P places, H tokens of a user's header.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from roster.auto.turns import last_turn
from roster.prompts import Prompt, Rendering
from roster.routed.taps import read, tapped

TAIL = 4
"""Tokens of the pooling "tail"."""
Place = tuple[int, str]
"""A block, counted from 1, and a pooling."""
WORTHWHILE = 8
"""Tokens of a common beginning from which on it is read apart."""
_LARGEST = 65504.0
"""Of half precision, in which features are kept."""


def last(hidden_BSD: Tensor, turn_BS: Tensor) -> Tensor:
    """The turn's last token, [B, D]."""
    at_B = (turn_BS * torch.arange(1, turn_BS.shape[1] + 1, device=turn_BS.device)).argmax(1)
    return hidden_BSD[torch.arange(len(at_B), device=hidden_BSD.device), at_B.to(hidden_BSD.device)].float()


def mean(hidden_BSD: Tensor, turn_BS: Tensor) -> Tensor:
    """The mean over the turn."""
    weight_BS1 = turn_BS.to(hidden_BSD.device)[..., None].float()
    return (hidden_BSD.float() * weight_BS1).sum(1) / weight_BS1.sum(1).clamp_min(1.0)


def tail(hidden_BSD: Tensor, turn_BS: Tensor) -> Tensor:
    """The mean over the last few tokens."""
    return mean(hidden_BSD, turn_BS & (turn_BS.flip(1).cumsum(1).flip(1) <= TAIL))


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"last": last, "mean": mean, "tail": tail}


def turn_of(ids_BS: Tensor | None, prompt_BS: Tensor, header_H: Tensor) -> Tensor:
    """The tokens that are pooled, [B, S]: the last turn without the row's first token, if others remain."""
    # The states may come from a block on another device than the ids, and the head be on a third.
    here = prompt_BS.device
    turn_BS = prompt_BS if ids_BS is None else last_turn(ids_BS.to(here), prompt_BS, header_H.to(here))
    rest_BS = turn_BS & (prompt_BS.cumsum(1) > 1)
    return torch.where(rest_BS.any(1, keepdim=True), rest_BS, turn_BS)


def features_of(
    model: torch.nn.Module,
    rendering: Rendering,
    header_H: Tensor,
    prompts: Sequence[Prompt],
    places: Sequence[Place],
    tick: Callable[[int], None] = lambda count: None,
    batch: int = 16,
    prefix: Prefix | None = None,
) -> Tensor:
    """The vectors of many prompts at every place, [N, P, D] in half precision; one pass of the plain base.

    Args:
        model: the base, with nothing attached.
        rendering: how prompts become tokens.
        header_H: see `roster.auto.turns`.
        prompts: in any order; of those longer than the base's context, the end.
        places: what to keep.
        tick: called with the number of prompts that have just been read.
        batch: prompts at a time.
        prefix: what all prompts begin with, if that was read before.
    """
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    ids = [rendering.ids(prompt)[-limit:] if limit else rendering.ids(prompt) for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    found: list[Tensor] = [torch.empty(0)] * len(ids)
    if prefix is None or not all(map(prefix.begins, ids)):
        prefix = Prefix(model, ids, header_H.tolist(), hasattr(model, "generate"))
    P, device = prefix.length, next(model.parameters()).device
    with tapped(model) as wish:
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            ids_BS, mask_BS = _padded([ids[at] for at in rows], device)
            pools = _Pools(places, turn_of(ids_BS, mask_BS, header_H)[:, P:])
            body = {"input_ids": ids_BS[:, P:], "attention_mask": mask_BS.long(), **prefix.cache(len(rows))}
            read(model, wish, body, {block for block, _ in places}, pools.take)
            for at, row_PD in zip(rows, pools.stacked().cpu(), strict=True):
                found[at] = row_PD
            tick(len(rows))
    return torch.stack(found)


class Prefix:
    """What all prompts begin with, up to the header of the first turn (a system prompt): it is read once.

    Its keys and values stand in a cache that each batch gets a copy of; its own hidden states are never pooled.

    Args:
        model: the base.
        ids: the tokens of prompts.
        header: of a user's turn.
        causal: whether tokens are read without what comes after them; otherwise nothing is read ahead.
    """

    def __init__(self, model: Any, ids: Sequence[Sequence[int]], header: Sequence[int], causal: bool):
        self.length, self.read, self._ids = self._length(ids, header), None, list[int]()
        if self.length < WORTHWHILE or not causal:
            self.length = 0
            return
        self._ids = list(ids[0][: self.length])
        ids_1S = torch.tensor([self._ids], device=next(model.parameters()).device)
        with torch.no_grad():
            self.read = model.base_model(input_ids=ids_1S, use_cache=True).past_key_values

    def begins(self, ids: Sequence[int]) -> bool:
        """Whether a prompt begins with it, and goes on."""
        return len(ids) > self.length and list(ids[: self.length]) == self._ids

    @staticmethod
    def _length(ids: Sequence[Sequence[int]], header: Sequence[int]) -> int:
        """Tokens up to the end of the first header, where it stands at the same place after the same tokens."""
        first = list(ids[0])
        ends = [at + len(header) for at in range(len(first)) if first[at : at + len(header)] == list(header)]
        if not ends or any(list(row[: ends[0]]) != first[: ends[0]] or len(row) <= ends[0] for row in ids):
            return 0
        return ends[0]

    def cache(self, batch: int) -> dict[str, Any]:
        """The argument of a forward call over so many rows."""
        if self.read is None:
            return {}
        if all(_grows(layer) for layer in self.read.layers):
            own = copy.copy(self.read)
            own.layers = [copy.copy(layer) for layer in own.layers]
        else:
            own = copy.deepcopy(self.read)
        if batch > 1:
            own.batch_repeat_interleave(batch)
        return {"past_key_values": own}


class _Pools:
    """Pools the states of one batch as they come, so that no block's states are kept whole."""

    def __init__(self, places: Sequence[Place], turn_BS: Tensor):
        self.places, self.turn_BS = places, turn_BS
        self.found: dict[Place, Tensor] = {}

    def take(self, block: int, hidden_BSD: Tensor) -> None:
        for place in self.places:
            if place[0] == block:
                self.found[place] = POOLINGS[place[1]](hidden_BSD, self.turn_BS)

    def stacked(self) -> Tensor:
        stacked_BPD = torch.stack([self.found[place] for place in self.places], dim=1)
        return stacked_BPD.clamp(-_LARGEST, _LARGEST).half()


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask) [B, S], padded on the right, where a causal base lets pads disturb nobody."""
    S = max(map(len, rows))
    ids_BS = torch.zeros(len(rows), S, dtype=torch.long)
    mask_BS = torch.zeros(len(rows), S, dtype=torch.bool)
    for at, row in enumerate(rows):
        ids_BS[at, : len(row)], mask_BS[at, : len(row)] = torch.tensor(row), True
    return ids_BS.to(device), mask_BS.to(device)


def _grows(layer: object) -> bool:
    """Whether a layer of a cache puts what comes later into new tensors, behind its own: it needs no copy then."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer  # recipes are listed without it

    return type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
