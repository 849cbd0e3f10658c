"""One adapter: a PEFT LoRA trained on one skill through the chat template, the loss on the answer only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from roster.pocket.contents import digest
from roster.smol.packing import pack, rows
from roster.smol.shapes import Shape, lora_config
from roster.smol.skills import Question
from roster.weights.kept import Kept
from roster.weights.moments import restore, state_of

_WARM_UP = 4
_CLIP = 1.0
_LOSSES = "losses"


def adapt(base: Any, name: str, shape: Shape) -> Any:
    """``base`` with a fresh adapter of a name, which is a skill's as a rule; its random start depends on it alone."""
    import peft

    torch.manual_seed(digest(f"smol/{name}") % 2**31)
    return peft.get_peft_model(base, lora_config(shape))


def train(
    model: Any,
    tokenizer: Any,
    asked: Sequence[Question],
    shape: Shape,
    tick: Callable[[float], None],
    kept: Kept | None = None,
) -> dict[str, Any]:
    """Train the adapter of ``model`` in place.

    Args:
        model: what `adapt` returns.
        tokenizer: of the base, with a chat template.
        asked: what to learn, batch by batch; as many as all steps take.
        shape: steps, batch and learning rate.
        tick: called with the loss after every step, those of earlier runs included.
        kept: where it goes on, and keeps how far it is.

    Returns:
        steps, examples, seconds (of this run) and the mean loss of the last ten steps, for the record.
    """
    drawn = rows(tokenizer, asked)
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), weight_decay=0.0)
    inner, dtype = model.get_base_model(), next(model.parameters()).dtype
    started = time.monotonic()
    losses = _taken_up(kept, trained, optimizer) if kept is not None else []
    for loss_before in losses:
        tick(loss_before)
    model.train()
    for step in range(len(losses), shape.steps):
        share = min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / shape.steps))
        optimizer.param_groups[0]["lr"] = shape.learning_rate * max(share, 0.02)
        packed = pack(drawn[step * shape.batch : (step + 1) * shape.batch])
        hidden_RD = inner.model(**packed.inputs(dtype)).last_hidden_state[0, packed.predicts_R]
        # Only the answers' places meet the vocabulary, which is a fifth of the model's arithmetic.
        loss = functional.cross_entropy(inner.lm_head(hidden_RD).float(), packed.targets_R)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), _CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if kept is not None:
            state = state_of(trained, optimizer) | {_LOSSES: torch.tensor(losses, dtype=torch.float64)}
            kept.save(state, len(losses))
        tick(losses[-1])
    model.eval()
    last = losses[-10:]
    return {
        "steps": shape.steps,
        "examples": len(drawn),
        "seconds": round(time.monotonic() - started, 1),
        "loss": round(sum(last) / len(last), 4),
    }


def _taken_up(kept: Kept, trained: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> list[float]:
    """Puts back what a stopped run had trained; the losses of its steps."""
    half, done = kept.half()
    if not done:
        return []
    restore(trained, optimizer, half, done)
    losses: list[float] = half[_LOSSES].tolist()
    return losses
