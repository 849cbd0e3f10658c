"""Where the last turn of a chat begins: a turn is routed by what the user says in it, not by what was said before.

A chat template writes a header of fixed tokens in front of what a user says. Which they are is found out by rendering
chats; a template whose headers cannot be told apart, or no template at all, makes the whole prompt the turn.

Shape legend: B batch rows, S tokens, H tokens of the header.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor

from roster.errors import RosterError
from roster.prompts import Rendering

NO_TOKEN = -1
"""Stands alone where there is no header."""


def header_of(rendering: Rendering) -> list[int]:
    """The tokens before what a user says, as few as tell; empty where nothing does."""
    if not rendering.templated:
        return []
    one, other = (rendering.ids([{"role": "user", "content": text}]) for text in ("alpha", "seven"))
    before = [a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
    after = [a for a, b in takewhile(lambda p: p[0] == p[1], zip(reversed(one), reversed(other), strict=False))][::-1]
    special = set(getattr(rendering.tokenizer, "all_special_ids", ()))
    for count in range(1, len(before) + 1):
        header = before[-count:]
        told = special & set(header) or not special & set(before)
        if told and not _places(after, header) and _found_in_later_turns(rendering, header):
            return header
    return []


def footer_of(rendering: Rendering) -> list[int]:
    """The tokens behind what a user says, up to where the answer begins; empty without a template."""
    if not rendering.templated:
        return []
    one, other = (reversed(rendering.ids([{"role": "user", "content": text}])) for text in ("alpha", "seven"))
    return [a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))][::-1]


def _found_in_later_turns(rendering: Rendering, header: Sequence[int]) -> bool:
    turns = [("user", "alpha"), ("assistant", "beta"), ("user", "gamma")]
    try:
        ids = rendering.ids([{"role": role, "content": text} for role, text in turns])
    except RosterError:
        return False
    return len(_places(ids, header)) == 2


def _places(ids: Sequence[int], header: Sequence[int]) -> list[int]:
    count = len(header)
    return [at for at in range(len(ids) - count + 1) if list(ids[at : at + count]) == list(header)]


def last_turn(ids_BS: Tensor, prompt_BS: Tensor, header_H: Tensor) -> Tensor:
    """True for the tokens of each row's last turn, [B, S]; where no header is found, for the whole prompt.

    Args:
        ids_BS: token ids.
        prompt_BS: True for real tokens of the prompt.
        header_H: of a user's turn.
    """
    H, S = len(header_H), ids_BS.shape[1]
    if not 0 < H < S:
        return prompt_BS
    found_BW = (ids_BS.unfold(1, H, 1) == header_H.to(ids_BS.device)).all(2) & prompt_BS[:, H - 1 :]
    place_S = torch.arange(S, device=ids_BS.device)
    first_B = (found_BW * (place_S[: found_BW.shape[1]] + H)).amax(1)  # 0 where there is none
    turn_BS = prompt_BS & (place_S >= first_B[:, None])
    return torch.where(turn_BS.any(1, keepdim=True), turn_BS, prompt_BS)
