"""Whole feed-forward experts as one operation, expert by expert: gather, first matrices, activation, last matrix; then
every token sums what its experts made of it. What is wide (F) never leaves the cache.

Shape legend: T tokens, R (token, expert) pairs sorted by expert, N pairs of one expert, E experts, D model width,
F expert width.

The arithmetic runs inside two custom operations, so that a compiler sees one opaque call and no data-dependent shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from roster.dispatch import memory
from roster.dispatch.activation import activate, activate_backward
from roster.dispatch.weights import Weights

CACHED = 256  # rows that are worked on while they lie in the cache


def feed_forward(
    x: Tensor,
    counts_E: Tensor,
    weights: Weights,
    token_R: Tensor | None = None,
    weight_R: Tensor | None = None,
) -> Tensor:
    """Applies experts to rows that are grouped by expert, or to tokens by way of sorted pairs.

    Args:
        x: rows [R, D] grouped by expert; with `token_R` tokens [T, D].
        counts_E: rows, or pairs, per expert; those behind the last group belong to nobody.
        weights: of the experts.
        token_R, weight_R: token and combine weight of each pair, sorted by expert.

    Returns:
        Rows [R, D], undefined for nobody's; with `token_R` the weighted sums [T, D].
    """
    # An autograd function is told who wants a gradient even where none is recorded.
    given = (x, *weights.matrices) if weight_R is None else (x, weight_R, *weights.matrices)
    save = torch.is_grad_enabled() and any(each.requires_grad for each in given)
    save_y = save and weight_R is not None and weight_R.requires_grad
    out: Tensor = _FeedForward.apply(  # type: ignore[no-untyped-call]  # torch's has no annotations
        save, save_y, x, token_R, weight_R, counts_E, weights.activation, weights.widths, *weights.matrices
    )
    return out


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        save: bool,
        save_y: bool,
        x: Tensor,
        token_R: Tensor | None,
        weight_R: Tensor | None,
        counts_E: Tensor,
        activation: str,
        widths: Sequence[int],
        *matrices: Tensor,
    ) -> Any:
        out, *kept = torch.ops.roster.feed_forward(
            x, token_R, weight_R, counts_E, list(matrices), list(widths), activation, save, save_y
        )
        if save:
            ctx.save_for_backward(x, token_R, weight_R, counts_E, *kept, *matrices)
            ctx.activation, ctx.widths = activation, widths
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, token_R, weight_R, counts_E, middle0, middle1, y_RD, *matrices = ctx.saved_tensors
        _, _, need_x, _, need_weight, _, _, _, *need = ctx.needs_input_grad
        grad_x, grad_weight, *grads = torch.ops.roster.feed_forward_backward(
            grad, x, token_R, weight_R, counts_E, matrices, list(ctx.widths), ctx.activation,
            [middle0, middle1, y_RD], [need_x, need_weight, *need],
        )  # fmt: skip
        grads = [each if needed else None for each, needed in zip(grads, need, strict=True)]
        grad_x, grad_weight = grad_x if need_x else None, grad_weight if need_weight else None
        return (None, None, grad_x, None, grad_weight, None, None, None, *grads)


@torch.library.custom_op("roster::feed_forward", mutates_args=())
def _forward(
    x: Tensor,
    token_R: Tensor | None,
    weight_R: Tensor | None,
    counts_E: Tensor,
    matrices: list[Tensor],
    widths: list[int],
    activation: str,
    save: bool,
    save_y: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output, and what is to be saved for the backward pass: what the first matrices made of the rows (`save`), and
    what the last one did (`save_y`)."""
    weights = Weights(tuple(matrices), activation, tuple(widths))
    sizes = counts_E.tolist()
    rows = len(x if token_R is None else token_R)
    kept = [memory.empty(x, rows if save and n < weights.firsts else 0, weights.widest) for n in (0, 1)]
    if save:
        middles = [_groups(each, sizes, weights.widths) for each in kept[: weights.firsts]]
    else:  # one after the other in the same memory, which would else be fetched and returned once per expert
        most = max(sizes, default=0)
        wide = [x.new_empty(most, weights.widest) for _ in range(weights.firsts)]
        middles = [_shared(each, sizes, weights.widths) for each in wide]
    y_RD = memory.empty(x, rows, x.shape[1])
    x_RD = _gather(x, token_R, sum(sizes), y_RD)  # read from where the results will lie
    groups = zip(_groups(x_RD, sizes), _groups(y_RD, sizes), *middles, strict=True)
    for expert, size, (x_ND, y_ND, *inputs) in zip(weights.per_expert(), sizes, groups, strict=True):
        if not size:
            continue
        for first_DF, bias_F, into_NF in zip(expert.firsts, expert.first_biases, inputs, strict=True):
            _affine(x_ND, first_DF, bias_F, into_NF)
        hidden_NF = activate(activation, inputs, inplace=not save)
        _affine(hidden_NF, expert.last, expert.last_bias, y_ND)
    served = sum(sizes)
    if token_R is None or weight_R is None:
        out = y_RD
    else:
        out = _sum_by_token(y_RD, token_R[:served], weight_R[:served], len(x))
    return out, kept[0], kept[1], y_RD if save_y else x.new_empty(0)


@_forward.register_fake
def _(
    x: Tensor,
    token_R: Tensor | None,
    weight_R: Tensor | None,
    counts_E: Tensor,
    matrices: list[Tensor],
    widths: list[int],
    activation: str,
    save: bool,
    save_y: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights = Weights(tuple(matrices), activation, tuple(widths))
    rows = len(x if token_R is None else token_R)
    kept = [x.new_empty(rows if save and n < weights.firsts else 0, weights.widest) for n in (0, 1)]
    return x.new_empty(x.shape), kept[0], kept[1], x.new_empty((rows, x.shape[1]) if save_y else 0)


@torch.library.custom_op("roster::feed_forward_backward", mutates_args=())
def _backward(
    grad: Tensor,
    x: Tensor,
    token_R: Tensor | None,
    weight_R: Tensor | None,
    counts_E: Tensor,
    matrices: list[Tensor],
    widths: list[int],
    activation: str,
    kept: list[Tensor],
    need: list[bool],
) -> list[Tensor]:
    """Gradients of x, of the combine weights and of every matrix; empty ones where none is needed.

    The gradient of a pair's weight is <y, g>; y is kept for it, as <h, g V^T>, which is the same, would read what is
    wide (F). Then g itself takes the weight, and all that follows from it is scaled.
    """
    need_x, need_weight, *need_matrices = need
    *middles, y_RD = kept
    weights = Weights(tuple(matrices), activation, tuple(widths))
    grads = [memory.empty(m, *m.shape if n else (0,)) for m, n in zip(matrices, need_matrices, strict=True)]
    into_experts = weights.of_gradients(grads)
    rows = len(x if token_R is None else token_R)
    grad_rows = memory.empty(x, rows if need_x else 0, x.shape[1])
    grad_weight = weight_R.new_zeros(weight_R.shape) if need_weight and weight_R is not None else x.new_empty(0)
    sizes = counts_E.tolist()
    served = sum(sizes)
    x_RD = _gather(x, token_R, served, grad_rows if need_x else None)
    if token_R is not None and weight_R is not None:
        grad = _back_from_sums(grad, token_R[:served], weight_R[:served], y_RD, grad_weight)
    along_R = (_groups(each, sizes) for each in (x_RD, grad, grad_rows))
    groups = zip(*along_R, *(_groups(each, sizes, weights.widths) for each in middles[: weights.firsts]), strict=True)
    for expert, into, size, group in zip(weights.per_expert(), into_experts, sizes, groups, strict=True):
        if not size:
            into.zero()
            continue
        x_ND, g_ND, grad_x_ND, *inputs = group
        hidden_NF, grad_inputs = activate_backward(activation, g_ND @ expert.last.T, inputs)
        into.of_last(hidden_NF, g_ND)
        if any(need_matrices):
            into.of_first(x_ND, grad_inputs)
        if need_x:
            _back_through(expert.firsts, grad_inputs, grad_x_ND)
    if token_R is None:
        grad_rows[served:] = 0
    elif need_x:
        grad_rows = _sum_by_token(grad_rows, token_R[:served], None, len(x))
    return [grad_rows if need_x else x.new_empty(0), grad_weight, *grads]


@_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    token_R: Tensor | None,
    weight_R: Tensor | None,
    counts_E: Tensor,
    matrices: list[Tensor],
    widths: list[int],
    activation: str,
    kept: list[Tensor],
    need: list[bool],
) -> list[Tensor]:
    like = [x, x if weight_R is None else weight_R, *matrices]
    return [each.new_empty(each.shape if needed else 0) for each, needed in zip(like, need, strict=True)]


def _back_through(firsts: list[Tensor], grads_NF: list[Tensor], out_ND: Tensor) -> None:
    """What reaches the rows when each first matrix takes its gradient back."""
    torch.mm(grads_NF[0], firsts[0].T, out=out_ND)
    for grad_NF, first_DF in zip(grads_NF[1:], firsts[1:], strict=True):
        out_ND.addmm_(grad_NF, first_DF.T)


def _sum_by_token(rows_RD: Tensor, token_R: Tensor, weight_R: Tensor | None, tokens: int) -> Tensor:
    """Sums [T, D] of the pairs' rows, weighted or not. Half precision is summed in float32 and rounded once."""
    first_T = torch.arange(tokens, device=token_R.device)
    row_T = torch.full_like(first_T, -1)
    if len(token_R) == tokens and (row_T.scatter_(0, token_R, first_T) >= 0).all():
        order_R = row_T  # one row each: looked up, not sorted for
    else:
        sorted_R, order_R = token_R.sort(stable=True)
        first_T = torch.searchsorted(sorted_R, first_T)
    if weight_R is not None:
        weight_R = weight_R.to(rows_RD.dtype).index_select(0, order_R)
    return F.embedding_bag(order_R, rows_RD, first_T, mode="sum", per_sample_weights=weight_R)


def _gather(x_TD: Tensor, token_R: Tensor | None, served: int, into_RD: Tensor | None = None) -> Tensor:
    """The experts' rows, all at once: gathered one expert at a time, between matmuls, they took twice as long."""
    if token_R is None:
        return x_TD
    if into_RD is None:
        into_RD = memory.empty(x_TD, served, x_TD.shape[1])
    return torch.index_select(x_TD, 0, token_R[:served], out=into_RD[:served])


def _back_from_sums(grad_TD: Tensor, token_R: Tensor, weight_R: Tensor, y_RD: Tensor, grad_weight_R: Tensor) -> Tensor:
    """What reaches the pairs' rows [R, D] from their tokens' weighted sums; the gradient of the weights goes to
    `grad_weight_R`, unless it is empty."""
    grad_RD = memory.empty(grad_TD, len(token_R), grad_TD.shape[1])
    scale_R1 = weight_R[:, None].to(grad_TD.dtype)
    for start in range(0, len(token_R), CACHED):
        part = slice(start, min(start + CACHED, len(token_R)))
        g_ND = torch.index_select(grad_TD, 0, token_R[part], out=grad_RD[part])
        if len(grad_weight_R):
            torch.sum(y_RD[part] * g_ND, 1, dtype=grad_weight_R.dtype, out=grad_weight_R[part])
        g_ND.mul_(scale_R1[part])
    return grad_RD


def _groups(rows: Tensor, sizes: list[int], widths: Sequence[int] = ()) -> Sequence[Tensor]:
    """Each expert's rows, narrowed where experts have `widths` of their own; of an empty tensor nothing.

    All at once, before any expert is at work: afterwards a slice costs more than the operation on it may.
    """
    if not len(rows):
        return [rows] * len(sizes)
    return _narrowed(rows[: sum(sizes)].split(sizes), widths)


def _shared(rows_NF: Tensor, sizes: list[int], widths: Sequence[int]) -> Sequence[Tensor]:
    """As many rows for each expert, all in the same place."""
    return _narrowed([rows_NF[:size] for size in sizes], widths)


def _narrowed(groups: Sequence[Tensor], widths: Sequence[int]) -> Sequence[Tensor]:
    """The first of the memory that each group has, [N, width]."""
    if not widths:
        return groups
    sized = zip(groups, widths, strict=True)
    return [each.view(-1)[: len(each) * width].view(-1, width) for each, width in sized]


def _affine(x_ND: Tensor, weight_DF: Tensor, bias_F: Tensor | None, out: Tensor | None) -> Tensor:
    if bias_F is None:
        return torch.mm(x_ND, weight_DF, out=out)
    return torch.addmm(bias_F, x_ND, weight_DF, out=out)
