"""Trains one small language model per recipe on equal terms, and measures it.

Equal terms: the same text in the same order, the same model around the blocks with the same initial weights, the same
optimiser, rate and number of steps; the hidden units that one token uses are the same for all recipes that allow it
(see `roster.moe.layout.Place`), so that the arithmetic per token is too.

Shape legend: B batch rows, S tokens per row.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from roster.arena.moe.data import DOMAINS, VOCAB, Corpus, corpus
from roster.moe.replacing import replace
from roster.train.consistency import training_loss
from roster.train.schedule import advance


@dataclass(frozen=True)
class Terms:
    """What all recipes share in one comparison.

    Attributes:
        steps, rows, length: optimiser steps, rows per step (B), tokens per row (S).
        width, layers, heads: of the model.
        hidden: hidden units of a feed-forward block that one token uses.
        learning_rate: peak; a linear warm-up over a tenth of the steps, then a cosine to a tenth of the peak.
        validation_rows: rows per domain on which the loss is measured.
        device: where to train; a GPU changes no other term.
    """

    steps: int = 300
    rows: int = 12
    length: int = 96
    width: int = 64
    layers: int = 3
    heads: int = 4
    hidden: int = 192
    learning_rate: float = 4e-3
    validation_rows: int = 24
    device: str = "cpu"


@dataclass
class Run:
    """One trained model and what was measured on the way.

    Attributes:
        model: in evaluation mode.
        train_loss: loss of every step, balance losses included.
        validation_loss: nats per token over all domains, and by domain.
        seconds: of training.
        parameters: of the whole model.
    """

    model: Any
    train_loss: list[float] = field(default_factory=list)
    validation_loss: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    parameters: int = 0


def small_model(terms: Terms, seed: int, vocabulary: int = VOCAB) -> transformers.PreTrainedModel:
    """A Llama of the size that the terms say, with random weights."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=terms.width,
        intermediate_size=terms.hidden,
        num_hidden_layers=terms.layers,
        num_attention_heads=terms.heads,
        num_key_value_heads=terms.heads,
        max_position_embeddings=max(terms.length, 128),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    model: transformers.PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)
    return model


def pretrain(
    recipe: str,
    options: Mapping[str, Any] | None = None,
    *,
    terms: Terms = Terms(),
    seed: int = 0,
    each_step: Callable[[int, Any], None] | None = None,
    text: Corpus | None = None,
) -> Run:
    """Trains one model from scratch.

    Args:
        recipe, options: of kind "moe". The tasks of recipes that route by task are the domains.
        terms: sizes and steps.
        seed: of the initial weights and of the order of the text.
        each_step: called as `each_step(step, model)` after every optimiser step, to measure on the way.
        text: by default the arena's corpus.
    """
    text = corpus() if text is None else text
    model = replace(small_model(terms, seed), recipe, options=options, tasks=DOMAINS).to(terms.device)
    return train(model, text, terms, seed, each_step)


def train(
    model: Any, text: Corpus, terms: Terms, seed: int, each_step: Callable[[int, Any], None] | None = None
) -> Run:
    """Trains a model that may have been changed by hand; see `pretrain`."""
    run = Run(model, parameters=sum(p.numel() for p in model.parameters()))
    start = time.monotonic()

    def batch(step: int) -> dict[str, Tensor]:
        ids_BS, domain_B = (each.to(terms.device) for each in text.batch(step, terms.rows, terms.length, seed))
        return {"input_ids": ids_BS, "labels": ids_BS, **asked(model, domain_B)}

    losses = optimise(model, batch, terms.steps, terms.learning_rate, each_step)
    run.train_loss = torch.stack(losses).tolist()
    run.seconds = time.monotonic() - start
    model.eval()
    run.validation_loss = validate(model, text, terms)
    return run


def optimise(
    model: Any,
    batch: Callable[[int], dict[str, Tensor]],
    steps: int,
    rate: float,
    each_step: Callable[[int, Any], None] | None = None,
    end: float = 0.1,
) -> list[Tensor]:
    """The loop that all small language models are trained by.

    Args:
        model: trained in place.
        batch: the model's arguments at a step.
        steps: of AdamW.
        rate: peak of the learning rate; see `rate_at`.
        each_step: called as `each_step(step, model)` after every step.
        end: share of the peak that the learning rate falls to.

    Returns:
        The loss of every step, still on the device: it must not be waited for at every step.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps, end))
    model.train()
    losses: list[Tensor] = []
    for step in range(steps):
        loss = training_loss(model, use_cache=False, **batch(step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        advance(model, (step + 1) / steps)
        losses.append(loss.detach())
        if each_step is not None:
            each_step(step, model)
    return losses


def rate_at(step: int, steps: int, end: float = 0.1) -> float:
    """Share of the peak learning rate; it falls to `end`."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return end + (1 - end) / 2 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def asked(model: Any, domain_B: Tensor) -> dict[str, Tensor]:
    """The inputs that a recipe which routes by task wants beside the tokens."""
    return {"task_ids": domain_B} if model.roster.plan.routes_by_task else {}


@torch.no_grad()
def losses_of(model: Any, ids_BS: Tensor, domain_B: Tensor, rows: int) -> Tensor:
    """Mean loss of each row in nats per token, [B], so many rows at a time; in evaluation mode."""
    losses = []
    for start in range(0, len(ids_BS), rows):
        part = slice(start, start + rows)
        logits = model(input_ids=ids_BS[part], use_cache=False, **asked(model, domain_B[part])).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids_BS[part, 1:], reduction="none")
        losses.append(loss.mean(1))
    return torch.cat(losses)


@torch.no_grad()
def validate(model: Any, text: Corpus, terms: Terms) -> dict[str, float]:
    """Mean loss in nats per token: "all" and by domain. The model must be in evaluation mode."""
    ids_BS, domain_B = (each.to(terms.device) for each in text.validation_rows(terms.validation_rows, terms.length))
    loss_B, domain_B = losses_of(model, ids_BS, domain_B, terms.rows).cpu(), domain_B.cpu()
    by_domain = {name: float(loss_B[domain_B == index].mean()) for index, name in enumerate(DOMAINS)}
    return {"all": float(loss_B.mean()), **by_domain}
