"""LESS: rows whose step would lower the loss of the target's rows, by the gradients of a LoRA.

Equation: Inf(z, t) = sum_i w_i cos(P Gamma_i(z), P g_i(t)) over the rounds i of a warm-up; g the gradient of the mean
    loss of a row's answer, Gamma_i(z) = m' / sqrt(v' + eps) with Adam's moments m' = b1 m_i + (1 - b1) g, v' = b2 v_i +
    (1 - b2) g^2; w_i the round's mean learning rate over the sum of them; P a random projection. A row's score is the
    mean over the target rows of a task, and the best task.
Shapes: n numbers of the LoRA, projected to W.
Trains: a LoRA for a few rounds on a small share of the pool; it is thrown away.
Siblings: `near` compares hidden states where LESS compares gradients; `ifd` needs no target.
Source: Xia, Malladi, Gururangan, Arora, Chen, 2024, "LESS: Selecting Influential Data for Targeted Instruction Tuning",
    arXiv:2402.04333, and its authors' code (princeton-nlp/LESS), which leaves Adam's bias correction out as above.
Differences: P is a sparse sign projection (each number goes to one of W places, with a random sign: Charikar, Chen,
    Farach-Colton, 2002), which needs n operations instead of n W and keeps inner products the same in the mean; what is
    no longer than W is not projected. Cosines are kept instead of the projected gradients. The learning rate falls
    evenly, without its first rise.
Claim: not judged here yet.

Shape legend: N rows of the pool, M of the target, W projected numbers, n parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.curation.ground import Ground
from roster.curation.warming import BETAS, EPSILON, Stage, learned, warm_up
from roster.errors import RosterError
from roster.train.data import Encoded, collate


def less(ground: Ground) -> Tensor:
    """The influence [N] of each row on the target.

    Raises:
        RosterError: no target, or rows without answers.
    """
    if not ground.target:
        raise RosterError("less chooses for a target: give rows like those that the expert should get right (--target)")
    pool, target = ground.encoded(ground.pool), ground.encoded(ground.target)
    rows = sorted(Random(ground.lesson.seed).sample(range(len(pool)), min(ground.warm_up, len(pool))))
    pad = ground.rendering.pad_token_id
    adapted, stages = warm_up(ground.model, pool, rows, ground.lesson, pad, ground.scratch)
    try:
        total_NM = torch.zeros(len(pool), len(target))
        rates = sum(stage.rate for stage in stages)
        for number, stage in enumerate(stages):
            total_NM += stage.rate / rates * _cosines(ground, adapted, stage, number, pool, target)
    finally:
        adapted.unload()
    return ground.nearest_group(total_NM)


def _cosines(ground: Ground, adapted: Any, stage: Stage, number: int, pool: Encoded, target: Encoded) -> Tensor:
    """cos(P Gamma(z), P g(t)) [N, M] at one round."""
    stage.wear(adapted)
    count = sum(parameter.numel() for parameter in learned(adapted).values())
    project, pad = Sketch(count, ground.width, ground.lesson.seed), ground.rendering.pad_token_id
    avg_n, avg_sq_n = (_flat(each, learned(adapted)) for each in (stage.avg, stage.avg_sq))
    target_MW = torch.empty(0)

    def compute(start: int, stop: int) -> Tensor:
        nonlocal target_MW
        if not len(target_MW):
            target_MW = torch.stack([project(gradient(adapted, item, pad)) for item in target.items])
        steps = [adam_step(gradient(adapted, pool.items[at], pad), avg_n, avg_sq_n) for at in range(start, stop)]
        step_bW = torch.stack([project(step_n) for step_n in steps])
        return F.normalize(step_bW, dim=1) @ F.normalize(target_MW, dim=1).T

    return ground.blockwise(f"influence-{number}", compute)


def gradient(adapted: Any, item: dict[str, Any], pad: int) -> Tensor:
    """The gradient [n] of one row's loss by the LoRA's parameters, float32 on the CPU."""
    adapted.zero_grad()
    batch = {key: each.to(adapted.device) for key, each in collate([item], pad).items()}
    with torch.enable_grad():
        adapted(**batch).loss.backward()
    parameters = learned(adapted).values()
    flat_n = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])
    adapted.zero_grad()
    return flat_n.float().cpu()


def adam_step(gradient_n: Tensor, avg_n: Tensor, avg_sq_n: Tensor) -> Tensor:
    """Which way Adam would go by a gradient, [n]: down this, by the learning rate."""
    first_n = BETAS[0] * avg_n + (1 - BETAS[0]) * gradient_n
    second_n = BETAS[1] * avg_sq_n + (1 - BETAS[1]) * gradient_n.square()
    return first_n / (second_n + EPSILON).sqrt()


class Sketch:
    """A random projection of vectors of n numbers to `width`, which keeps inner products in the mean.

    Args:
        count: n; vectors that are no longer than `width` stay as they are.
        width: of the projected ones.
        seed: of the draw.
    """

    def __init__(self, count: int, width: int, seed: int):
        self._width = width if count > width else 0
        if self._width:
            generator = torch.Generator().manual_seed(seed)
            self._place_n = torch.randint(width, (count,), generator=generator)
            self._sign_n = torch.randint(2, (count,), generator=generator).float() * 2 - 1

    def __call__(self, vector_n: Tensor) -> Tensor:
        """[n] -> [width]."""
        if not self._width:
            return vector_n
        return torch.zeros(self._width).index_add_(0, self._place_n, vector_n * self._sign_n)


def _flat(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten().float() for name in like])
