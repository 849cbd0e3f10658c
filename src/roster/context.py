"""Context: what a router may know besides the hidden states. One per forward call, read by every part.

Shape legend: B batch rows, S tokens of this call, L tokens so far (earlier decode steps included), T = B * S
flattened tokens, D width, E experts. This file does not say how a context is made from a model's inputs
(`roster.routed.inputs`) nor how it survives activation recomputation (`roster.routed.checkpoint`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

DECISION, DUTY, KEPT = "decision", "duty", "kept"
"""Where in a context's memory lie what was decided for each row, [B, 2, K]; the experts that any row needs (None, or
nothing: not known without waiting for a device); and what experts keep for all steps of one `generate`."""


class History(Protocol):
    """Per-token values that outlive one forward call: they follow the KV cache through decode steps.

    Attributes:
        first_pass: the KV cache of a pass of the base alone; None where there is no such pass.
    """

    first_pass: Any

    @property
    def length(self) -> int | Tensor:
        """Tokens that earlier calls have already put into the cache."""
        ...

    def append(self, key: str, value_BSD: Tensor) -> Tensor:
        """Adds this call's values and returns all so far, [B, L, D]; positions not yet written are zero."""
        ...

    def latest(self, key: str, make: Callable[[], Tensor]) -> Tensor:
        """What was remembered of a row's last token, [B, D]; `make` is asked for it when there is none yet."""
        ...


class Recorder(Protocol):
    """Receives every route that is decided while it is attached (see `roster.trace`)."""

    def begin(self, input_ids: Tensor | None, mask: Tensor | None, *, continues: bool) -> None:
        """Announces a forward call; `continues` says that it extends the one before it."""
        ...

    def record(
        self,
        site: str,
        gates_BSE: Tensor,
        mask_BS: Tensor | None,
        tokens: Tensor | None,
        dropped_E: Tensor | None = None,
    ) -> None:
        """Takes the dense combine weights of one site, [B, S, E], and what a capacity dropped, if there is one."""
        ...


@dataclass
class Context:
    """What is known of the tokens of one forward call.

    Attributes:
        batch, length: B and S; routers see tokens flattened to T = B * S, row by row.
        mask_BS: True for real tokens; None when every token is real.
        input_ids_BS: token ids; None when the caller gave embeddings.
        prompt_BS: True for tokens of the prompt. None: in a call without history, all of them.
        task_ids_B: a task per row, -1 for "none of the known ones"; None when not given.
        history: per-token memory across decode steps; None outside cached generation.
        memory: what lives across the layers of this one call, by name (tensors and routes).
        recorder: where routes are traced to; None costs nothing.
        gates_BE: combine weights that the caller gives each row, at every layer; no router is asked then.
        off: True while the base must answer alone (the first of two passes).
        recipe: the method at work, for errors to name; "" outside a model.
        processes: those that compute the other parts of this call's batch; losses and capacities then count the tokens
            of all of them. None where a call stands alone, which every call at evaluation does.
        decoder: of a model with an encoder: what is known of its decoder's tokens, where the rest is of its encoder's;
            None where the model has one stream of tokens.
    """

    batch: int
    length: int
    mask_BS: Tensor | None = None
    input_ids_BS: Tensor | None = None
    prompt_BS: Tensor | None = None
    task_ids_B: Tensor | None = None
    history: History | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    recorder: Recorder | None = None
    gates_BE: Tensor | None = None
    off: bool = False
    recipe: str = ""
    processes: ProcessGroup | None = None
    decoder: Context | None = None

    @classmethod
    def of(cls, x: Tensor, **known: Any) -> Context:
        """The plainest context for hidden states [B, S, D] or [T, D] (one row)."""
        batch, length = x.shape[:2] if x.dim() == 3 else (1, x.shape[0])
        return cls(batch, length, **known)

    @property
    def mask_T(self) -> Tensor | None:
        """`mask_BS` flattened to [T]."""
        return None if self.mask_BS is None else self.mask_BS.reshape(-1)

    def add_loss(self, site: str, loss: Tensor) -> None:
        """Asks to add `loss` to the training loss. It is kept in memory, so that it survives recomputation."""
        key = f"loss/{site}"
        self.memory[key] = self.memory.get(key, 0.0) + loss

    @property
    def losses(self) -> dict[str, Tensor]:
        """What the balance parts ask to add to the training loss, by site."""
        own = {key[5:]: value for key, value in self.memory.items() if key.startswith("loss/")}
        return own if self.decoder is None else own | self.decoder.losses

    def per_token(self, value_BX: Tensor) -> Tensor:
        """Repeats one value per row for each of its tokens: [B, X] -> [T, X]."""
        return value_BX.repeat_interleave(self.length, dim=0)

    def prompt_mask(self, device: torch.device) -> Tensor:
        """Real tokens of the prompt among this call's tokens, [B, S] bool."""
        prompt_BS = self.prompt_BS
        if prompt_BS is None:
            prompt_BS = torch.ones(self.batch, self.length, dtype=torch.bool, device=device)
        prompt_BS = prompt_BS.to(device=device, dtype=torch.bool)
        return prompt_BS if self.mask_BS is None else prompt_BS & self.mask_BS.to(device)

    def fork(self, memory: dict[str, Any]) -> Context:
        """The same call with its own memory: what is written there is not seen by this context."""
        return replace(self, memory=memory)


class ContextSlot(threading.local):
    """Where the modules of one model find the context of the call that runs now; one per thread.

    A model holds exactly one slot and shares it among its routed modules, so two models, two threads, or the
    threads in which autograd recomputes activations never see each other's context.
    """

    current: Context | None = None

    @contextmanager
    def use(self, context: Context) -> Iterator[Context]:
        """Makes `context` the current one for the duration of a with-block."""
        previous = self.current
        self.current = context
        try:
            yield context
        finally:
            self.current = previous

    def __reduce__(self) -> tuple[type[ContextSlot], tuple[()]]:
        # A copy of a model starts without a running call.
        return (ContextSlot, ())
