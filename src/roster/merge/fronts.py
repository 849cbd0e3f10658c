"""Fronts: one model for every weighing of several tasks, trained at many weighings (rays) at once.

A *front* composes a template's weights for a ray; a *task* is a loss of whatever calls the composed model. `train` adds
up ray-weighted losses and steps what the front trains. Who composes how is `pamal.py` and `palora.py`.

Shape legend: T tasks, R rays of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from roster.errors import RosterError
from roster.merge.learned import Progress
from roster.weights.texts import Texts

Call = Callable[..., Any]
"""The composed model: called as the template is."""
Task = Callable[[Call, int], Tensor]
"""(model, step) -> the task's loss."""
Rays = Callable[[int, torch.Generator], Tensor]
"""(step, random numbers) -> rays [R, T], each row summing to 1."""


class Front(Protocol):
    """What is trained.

    Attributes:
        template: whose function the composed weights have; its own weights are not used where the front composes them.
        tasks: T.
    """

    template: nn.Module
    tasks: int

    def weights(self, ray_T: Tensor) -> dict[str, Tensor]:
        """The template's parameters for a ray, by name, with gradients to what is trained."""


def composed(front: Front, ray_T: Tensor) -> Call:
    """The model of a ray."""
    weights = front.weights(ray_T)
    return lambda *given, **named: functional_call(front.template, weights, given, named)


def train(
    front: Front,
    tasks: Sequence[Task],
    rays: Rays,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    mean: bool = False,
    order: float = 0.0,
    temperature: float = 1.0,
    seed: int = 0,
    told: list[float] | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Trains a front in place.

    Args:
        front: see `Front`.
        tasks: T of them.
        rays: of each step.
        optimizer: of what the front trains.
        steps: of it.
        mean: whether losses are the mean over rays, and not their sum.
        order: weight of the ordering term, see `disorder`; 0 for none. It is left out of a step where it would be
            larger than all else.
        temperature: of the ordering term.
        seed: of the rays.
        told: losses of the steps that were done before, to which the others are added.
        progress: told of steps.

    Returns:
        The loss of every step.

    Raises:
        RosterError: another number of tasks than the front has.
    """
    if len(tasks) != front.tasks:
        raise RosterError(f"there are {len(tasks)} tasks for a front of {front.tasks}")
    generator = torch.Generator().manual_seed(seed)
    told = [] if told is None else told
    done = len(told)
    for step in range(steps):
        rays_RT = rays(step, generator)
        if step < done:
            continue  # its rays are drawn all the same, so that the steps behind it get theirs
        share = 1 / len(rays_RT) if mean else 1.0
        optimizer.zero_grad()
        kept, total = [], 0.0
        for ray_T in rays_RT:
            call = composed(front, ray_T)
            losses_T = torch.stack([task(call, step) for task in tasks])
            loss = share * (ray_T * losses_T).sum()
            loss.backward(retain_graph=order > 0)
            total += float(loss.detach())
            kept.append(losses_T)
        if order > 0 and len(kept) > 1:
            penalty = order * disorder(rays_RT, torch.stack(kept), temperature)
            if penalty.requires_grad and float(penalty.detach()) < total:
                penalty.backward()
                total += float(penalty.detach())
        optimizer.step()
        told.append(total)
        if progress is not None:
            progress("front, steps", step + 1, steps)
    return told


def disorder(rays_RT: Tensor, losses_RT: Tensor, temperature: float = 1.0) -> Tensor:
    """How far losses are from growing where a task's share falls; 0 where they do.

    Of each task the rays are sorted by falling share; sum over tasks of log mean exp(temperature * relu(L_i - L_i+1)).
    The released code of PaMaL takes relu(L_i+1 - L_i) in that order, which is above 0 where the order is right.
    """
    total = losses_RT.new_zeros(())
    for task in range(rays_RT.shape[1]):
        falling = rays_RT[:, task].argsort(descending=True)
        wrong = torch.relu(-losses_RT[falling, task].diff())
        total = total + (temperature * wrong).exp().mean().log()
    return total


def next_token(texts: Texts, batch: int, seed: int) -> Task:
    """The task of saying texts: the loss of the next token on some rows a step, drawn anew."""

    def loss(call: Call, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randperm(len(texts.ids_BS), generator=generator)[:batch]
        mask_BS = texts.mask_BS[rows]
        longest = int(mask_BS.sum(1).max())
        ids_BS, mask_BS = texts.ids_BS[rows, :longest], mask_BS[:, :longest]
        logits_BSV = call(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False).logits[:, :-1].float()
        real_BS = mask_BS[:, 1:].bool()
        return cross_entropy(logits_BSV[real_BS], ids_BS[:, 1:][real_BS])

    return loss
