"""What is known of the rows of a running `generate`: their tasks, how much of them is prompt, what was decided on it.

It does not travel among the keyword arguments of transformers' `generate`, because transformers hands those to a
draft model too, which refuses what it does not know; and the first call of an assisted generation already holds
drafts, so that the prompt cannot be read off the call.

Shape legend: B batch rows, P prompt tokens, L tokens so far, S tokens of one call, K experts on duty.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Generation(threading.local):
    """One per routed model and thread; all None while nothing is generated.

    Attributes:
        extended: whether what the model is called with has the rows' virtual tokens already.
    """

    task_ids_B: Tensor | None = None
    prompt_BP: Tensor | None = None
    embedded: int = 0
    decision_B2K: Tensor | None = None
    duty: tuple[int, ...] | None = None
    kept: dict[Any, Any] | None = None
    extended: bool = False

    @contextmanager
    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """Takes what roster wants to know out of the arguments of `generate`, for the duration of a with-block."""
        before = dict(vars(self))
        ids_BP = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
        prompt_BP, self.embedded = kwargs.pop("prompt_mask", None), 0
        if ids_BP is None and (embeds := kwargs.get("inputs_embeds")) is not None:
            ids_BP, self.embedded = embeds[..., 0], embeds.shape[1]
        if prompt_BP is None and isinstance(ids_BP, Tensor):
            prompt_BP = torch.ones_like(ids_BP, dtype=torch.bool)
        self.prompt_BP, self.task_ids_B = prompt_BP, kwargs.pop("task_ids", None)
        self.decision_B2K, self.duty, self.kept = None, None, {}
        try:
            yield
        finally:
            vars(self).clear()
            vars(self).update(before)

    @contextmanager
    def whole(self, **known: Any) -> Iterator[None]:
        """For the duration of a with-block, calls are taken to have their virtual tokens already.

        Args:
            known: what else is known of their rows, by the names of the fields.
        """
        before = dict(vars(self))
        vars(self).update(known, extended=True)
        try:
            yield
        finally:
            vars(self).clear()
            vars(self).update(before)

    def begin_with(self, virtual: int) -> None:
        """Says that so many virtual tokens stand before the prompts of the running `generate`, which embeds them."""
        assert self.prompt_BP is not None, "there is a prompt"
        self.embedded, self.extended = self.embedded + virtual, True
        self.prompt_BP = F.pad(self.prompt_BP, (virtual, 0), value=True)

    def inputs(self, input_ids_BL: Tensor, batch: int, length: int) -> dict[str, Tensor]:
        """Arguments of one forward call over the last `length` tokens; rows are repeated as beams are."""
        tasks_B = self.tasks_of(batch)
        given = {} if tasks_B is None else {"task_ids": tasks_B}
        if self.prompt_BP is not None:
            new = self.embedded + input_ids_BL.shape[1] - self.prompt_BP.shape[1]
            prompt_BS = F.pad(self.prompt_BP, (0, new))[:, -length:]
            given["prompt_mask"] = prompt_BS.repeat_interleave(batch // len(prompt_BS), dim=0)
        return given

    def tasks_of(self, batch: int) -> Tensor | None:
        """The task of each row of a call with so many rows: prompts are repeated as beams are."""
        return None if self.task_ids_B is None else self.task_ids_B.repeat_interleave(batch // len(self.task_ids_B))

    def decision_of(self, batch: int) -> Tensor | None:
        """What was decided for each row of a call with so many rows, before the first step; None outside `generate`."""
        decision_B2K = self.decision_B2K
        return None if decision_B2K is None else decision_B2K.repeat_interleave(batch // len(decision_B2K), dim=0)

    def __reduce__(self) -> tuple[type[Generation], tuple[()]]:
        # A copy of a model generates nothing yet.
        return (Generation, ())
