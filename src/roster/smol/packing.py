"""Many prompts in one sequence: the opening that all share (system prompt) once, then each as a branch.

A branch sees the opening and itself, never its neighbours, and its positions go on where the opening ends; so the
numbers are those of one prompt a row, without padding and without the opening's repetitions, which are half of all
tokens where questions are short.

Legend: S tokens of the packed sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from roster.prompts import Rendering
from roster.smol.skills import Question


@dataclass(frozen=True)
class Packed:
    """What a causal model and the loss need.

    Attributes:
        ids_S: token ids.
        positions_S: position in each prompt's own sequence.
        sees_SS: True where the token of the row may look at the token of the column.
        predicts_R: places whose next token is part of an answer.
        targets_R: those next tokens.
    """

    ids_S: Tensor
    positions_S: Tensor
    sees_SS: Tensor
    predicts_R: Tensor
    targets_R: Tensor

    def inputs(self, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments for a transformers model, a batch of one row; the mask is added to the scores."""
        closed = torch.zeros(self.sees_SS.shape, dtype=dtype).masked_fill(~self.sees_SS, torch.finfo(dtype).min)
        return {
            "input_ids": self.ids_S[None],
            "position_ids": self.positions_S[None],
            "attention_mask": closed[None, None],
            "use_cache": False,
        }


def rows(tokenizer: Any, questions: Sequence[Question]) -> list[tuple[list[int], list[int]]]:
    """Each question's prompt through the chat template, and its answer with the end of the turn, as token ids."""
    rendering = Rendering(tokenizer)
    return [rendering.pair(each.messages, each.answer) for each in questions]


def pack(pairs: Sequence[tuple[list[int], list[int]]]) -> Packed:
    """One sequence of all pairs of prompt and answer; the prompts' common beginning stands once at its head."""
    columns = zip(*(prompt[:-1] for prompt, _ in pairs), strict=False)
    shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, columns))
    ids, positions, branch = list(pairs[0][0][:shared]), list(range(shared)), [-1] * shared
    predicts: list[int] = []
    targets: list[int] = []
    for at, (prompt, answer) in enumerate(pairs):
        tail = [*prompt[shared:], *answer[:-1]]
        first = len(ids) + len(prompt) - shared - 1
        predicts += range(first, first + len(answer))
        targets += answer
        ids += tail
        positions += range(shared, shared + len(tail))
        branch += [at] * len(tail)
    branch_S = torch.tensor(branch)
    own_SS = (branch_S[:, None] == branch_S) | (branch_S == -1)
    return Packed(
        torch.tensor(ids), torch.tensor(positions), own_SS.tril(), torch.tensor(predicts), torch.tensor(targets)
    )
