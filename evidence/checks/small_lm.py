"""The smallest language models on which routers of feed-forward blocks can be compared, and what is measured of them.

Shape legend: B batch rows, S tokens per row, T = B * S, D model width, E experts, K chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.arena.moe.data import DOMAINS, Corpus, corpus
from roster.arena.moe.pretrain import Run, Terms, small_model, train
from roster.context import Context
from roster.moe.layer import MoE
from roster.moe.replacing import replace

SMALL = Terms(steps=1200, rows=8, length=64, width=48, layers=2, hidden=96, validation_rows=16)
"""Half a minute of training on one core. After a fifth of these steps the dense block was still ahead of top-2 of 8."""


def build(recipe: str, seed: int, options: Mapping[str, Any] | None = None, terms: Terms = SMALL) -> Any:
    """A model that has not been trained."""
    return replace(small_model(terms, seed), recipe, options=options, tasks=DOMAINS)


def learn(model: Any, seed: int, terms: Terms = SMALL, each_step: Any = None) -> Run:
    """Trains it on the arena's text."""
    return train(model, corpus(), terms, seed, each_step)


def blocks(model: nn.Module) -> list[MoE]:
    """The model's mixtures, from the first layer to the last."""
    return [module for module in model.modules() if isinstance(module, MoE)]


def held_out(terms: Terms = SMALL, text: Corpus | None = None) -> Tensor:
    """Validation tokens [B, S]."""
    return (text or corpus()).validation_rows(terms.validation_rows, terms.length)[0]


@torch.no_grad()
def block_inputs(model: Any, ids_BS: Tensor) -> list[Tensor]:
    """What every mixture of the model reads, [T, D] each."""
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].reshape(-1, args[0].shape[-1])))
        for block in blocks(model)
    ]
    try:
        model(input_ids=ids_BS, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@torch.no_grad()
def chosen(block: MoE, x_TD: Tensor, ids_BS: Tensor) -> Tensor:
    """Who serves each token at evaluation, bool [T, E]."""
    return block.router(x_TD, Context(*ids_BS.shape, input_ids_BS=ids_BS)).chosen()


@torch.no_grad()
def choices(model: Any, ids_BS: Tensor) -> Tensor:
    """Who serves each token in every layer, bool [layers, T, E]; the model is left in the mode it was in."""
    was_training = model.training
    model.eval()
    inputs = block_inputs(model, ids_BS)
    routes = [chosen(block, x_TD, ids_BS) for block, x_TD in zip(blocks(model), inputs, strict=True)]
    model.train(was_training)
    return torch.stack(routes)


def changed(before: Tensor, after: Tensor) -> float:
    """Share of choices that are other than before."""
    return 1.0 - float((before & after).sum() / before.sum())


@torch.no_grad()
def answers(block: MoE, x_TD: Tensor) -> Tensor:
    """What every expert makes of every token, [E, T, D]."""
    E, T = block.experts.num_experts, len(x_TD)
    return block.experts(x_TD.repeat(E, 1), torch.full((E,), T)).view(E, T, -1)


def similarity(model: Any, ids_BS: Tensor) -> float:
    """Mean cosine between two experts' answers to the same token, over all pairs and layers: 1 is full collapse."""
    values = []
    for block, x_TD in zip(blocks(model), block_inputs(model, ids_BS), strict=True):
        unit_ETD = F.normalize(answers(block, x_TD), dim=-1)
        cosine_EE = torch.einsum("etd,ftd->ef", unit_ETD, unit_ETD) / len(x_TD)
        E = len(cosine_EE)
        values.append((cosine_EE.sum() - cosine_EE.trace()) / (E * (E - 1)))
    return float(torch.stack(values).mean())


@torch.no_grad()
def effective_rank(model: Any, ids_BS: Tensor) -> float:
    """Of the model's last hidden states: the exponential of the entropy of their normalised singular values."""
    x_TD = model(input_ids=ids_BS, use_cache=False, output_hidden_states=True).hidden_states[-1].flatten(0, 1)
    size_D = torch.linalg.svdvals(x_TD - x_TD.mean(0))
    share_D = size_D / size_D.sum()
    return float((-share_D * share_D.clamp_min(1e-12).log()).sum().exp())
