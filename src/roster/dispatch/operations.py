"""The three operations that experts are built on, each on whichever back end is on duty.

Shape legend: T tokens, R rows or (token, expert) pairs grouped by expert, E experts, D and F widths.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.dispatch import blocks, exchange, fused, grouped_mm, reference
from roster.dispatch.activation import activate
from roster.dispatch.choose import fastest, forced, key_of
from roster.dispatch.grouped_mm import fits_grouped_mm
from roster.dispatch.weights import Weights

if TYPE_CHECKING:
    from roster.route import Route

Matmul = Callable[[Tensor, Tensor, Tensor], Tensor]


def grouped_matmul(rows_RD: Tensor, weight_EDF: Tensor, counts_E: Tensor) -> Tensor:
    """Multiplies each group of rows by its own expert's matrix.

    Args:
        rows_RD: rows sorted by expert; rows behind the last group belong to nobody.
        weight_EDF: one matrix per expert.
        counts_E: rows per expert.

    Returns:
        [R, F]; undefined for rows of nobody.
    """
    rows_RD, (weight_EDF,) = _autocast(rows_RD, (weight_EDF,))

    def run(name: str, rows: Tensor, weight: Tensor) -> Tensor:
        return _matmul(name)(rows, weight, counts_E)

    name = _choose("matmul", rows_RD, (weight_EDF,), len(rows_RD), run)
    return run(name, rows_RD, weight_EDF)


def feed_forward(rows_RD: Tensor, counts_E: Tensor, weights: Weights) -> Tensor:
    """Applies whole experts to rows that are grouped by expert.

    Returns:
        [R, D]; undefined for rows of nobody.
    """
    if exchange.spread(weights):
        return exchange.feed_forward(rows_RD, counts_E, weights, feed_forward)
    rows_RD, matrices = _autocast(rows_RD, weights.matrices)

    def run(name: str, rows: Tensor, *matrices: Tensor) -> Tensor:
        mine = Weights(matrices, weights.activation, weights.widths)
        if name == "blocks":
            return fused.feed_forward(rows, counts_E, mine)
        return _stepwise(name, rows, counts_E, mine)

    name = _choose("feed_forward", rows_RD, matrices, len(rows_RD), run)
    return run(name, rows_RD, *matrices)


def serve(x_TD: Tensor, route: Route, weights: Weights) -> Tensor:
    """Applies whole experts to the tokens that a sparse route sends them, and sums what they make of each token.

    Returns:
        [T, D]; zero for a token that nobody serves.
    """
    if exchange.spread(weights):
        return exchange.serve(x_TD, route, weights, feed_forward)
    x_TD, matrices = _autocast(x_TD, weights.matrices)
    token_R, weight_R, counts_E = route.pairs()

    def run(name: str, x: Tensor, *matrices: Tensor) -> Tensor:
        mine = Weights(matrices, weights.activation, weights.widths)
        if name == "blocks":
            return fused.feed_forward(x, counts_E, mine, token_R, weight_R)
        return route.combine(_stepwise(name, route.dispatch(x), counts_E, mine))

    name = _choose("serve", x_TD, matrices, len(token_R), run)
    return run(name, x_TD, *matrices)


def _stepwise(name: str, rows_RD: Tensor, counts_E: Tensor, weights: Weights) -> Tensor:
    """Experts as a chain of grouped matmuls."""
    if name == "reference":
        return reference.feed_forward(rows_RD, counts_E, weights)
    matmul, n = _matmul(name), weights.firsts
    matrices = weights.padded().matrices
    biases: list[Tensor | None] = [None] * (n + 1)
    if len(matrices) > n + 1:
        row_R = torch.arange(len(rows_RD), device=rows_RD.device)
        expert_R = torch.searchsorted(counts_E.cumsum(0), row_R, right=True)
        # Nobody's rows get a bias of their own, so that their undefined gradients end nowhere.
        biases = [F.pad(bias, (0, 0, 0, 1))[expert_R] for bias in matrices[n + 1 :]]

    def affine(rows: Tensor, index: int) -> Tensor:
        out, bias = matmul(rows, matrices[index], counts_E), biases[index]
        return out if bias is None else out + bias

    return affine(activate(weights.activation, [affine(rows_RD, index) for index in range(n)]), n)


def _matmul(name: str) -> Matmul:
    if name == "triton":
        from roster.dispatch import triton_kernel  # needs triton, which not every machine has

        return triton_kernel.matmul
    return {"blocks": blocks.matmul, "grouped_mm": grouped_mm.matmul, "reference": reference.matmul}[name]


def _choose(kind: str, x: Tensor, stacks: tuple[Tensor, ...], rows: int, run: Callable[..., Tensor]) -> str:
    """The back end for one call."""
    if (name := forced()) is not None:
        return name
    names = _contenders(x, stacks)
    if torch.compiler.is_compiling():  # nothing can be timed while it is traced
        return names[0]
    matrices = [each for each in stacks if each.dim() == 3]
    grad = torch.is_grad_enabled() and any(each.requires_grad for each in (x, *stacks))
    trials = {name: partial(_trial, run, name, x, stacks, grad) for name in names}
    work = rows * sum(each.shape[1] * each.shape[2] for each in matrices)
    return fastest(key_of(kind, x, stacks, rows, grad), work, trials, x.device)


def _contenders(x: Tensor, stacks: tuple[Tensor, ...]) -> list[str]:
    """Back ends that can take these, the default first."""
    stacked = all(each.dim() == 3 for each in stacks[:2])  # else experts of different widths
    rows = x.new_empty(0, stacks[0].shape[-2]) if stacked else x
    fits = stacked and x.dtype != torch.float64 and all(fits_grouped_mm(rows, m) for m in stacks if m.dim() == 3)
    if x.device.type == "cpu":
        return ["blocks", "grouped_mm"] if fits else ["blocks"]
    names = ["grouped_mm"] if fits else []
    if stacked and x.device.type == "cuda" and find_spec("triton") is not None:
        names.append("triton")
    return names or ["blocks"]


def _trial(run: Callable[..., Tensor], name: str, x: Tensor, stacks: tuple[Tensor, ...], grad: bool) -> None:
    if not grad:
        with torch.no_grad():
            run(name, x, *stacks)
        return
    given = [each.detach().requires_grad_(each.requires_grad) for each in (x, *stacks)]
    out = run(name, *given)
    torch.autograd.grad(out, [each for each in given if each.requires_grad], out.detach())


def _autocast(x: Tensor, stacks: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """What autocast would make of a matmul's inputs; it does not know grouped ones."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x, stacks
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), tuple(each.to(dtype) for each in stacks)
