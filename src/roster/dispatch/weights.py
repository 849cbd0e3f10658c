"""What feed-forward experts are made of, all experts at once and one by one.

Shape legend: N rows of one expert, E experts, D model width, F expert width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Weights(NamedTuple):
    """The matrices of all experts.

    Attributes:
        matrices: `(gate_EDF, up_EDF, down_EFD)` of gated experts or `(up_EDF, down_EFD)` of plain ones, followed by
            as many biases (`_EF`, ..., `_ED`), or none.
        activation: see `roster.dispatch.activation`.
        widths: of each expert where they differ. The F axes of all experts are then one: `gate_FD`, `up_FD`,
            `down_FD`, biases `_F`, `_F`, `_ED`.
    """

    matrices: tuple[Tensor, ...]
    activation: str
    widths: tuple[int, ...] = ()

    @property
    def firsts(self) -> int:
        """How many matrices come before the activation: 2 of gated experts, 1 of plain ones."""
        return 2 if len(self.matrices) % 3 == 0 else 1

    @property
    def widest(self) -> int:
        """The most hidden units that an expert has."""
        return max(self.widths) if self.widths else self.matrices[0].shape[2]

    def per_expert(self) -> list[Expert]:
        """Views of each expert's own matrices; every stack is taken apart once."""
        return [
            Expert(*self._expert(parts)) for parts in zip(*map(self._parts, self.matrices, self._axes), strict=True)
        ]

    def of_gradients(self, grads: Sequence[Tensor]) -> list[Gradients]:
        """Views of each expert's own part of the gradients; an empty tensor stands for a gradient nobody needs."""
        E = len(self.widths) or len(self.matrices[0])
        pairs = zip(grads, self._axes, strict=True)
        parts = [self._parts(grad, along_F) if grad.numel() else (None,) * E for grad, along_F in pairs]
        return [Gradients(*self._expert(each)) for each in zip(*parts, strict=True)]

    def padded(self) -> Weights:
        """The same experts, all as wide as the widest; the hidden units that this adds are zero and stay so."""
        if not self.widths:
            return self
        stacks = []
        for index, (each, along_F) in enumerate(zip(self.matrices, self._axes, strict=True)):
            stack = pad_sequence(list(self._parts(each, along_F)), batch_first=True) if along_F else each
            stacks.append(stack.transpose(1, 2).contiguous() if index < self.firsts else stack)
        return Weights(tuple(stacks), self.activation)

    @property
    def _axes(self) -> list[bool]:
        """Which matrices hold the experts one behind the other along F."""
        return [bool(self.widths) and index != 2 * self.firsts + 1 for index in range(len(self.matrices))]

    def _parts(self, stack: Tensor, along_F: bool) -> tuple[Tensor, ...]:
        return stack.split(list(self.widths)) if along_F else stack.unbind()

    def _expert(self, parts: Sequence[Any]) -> tuple[list[Any], Any, list[Any], Any]:
        """First matrices, last one, their biases."""
        n = self.firsts
        turned = [each if each is None or not self.widths else each.T for each in parts[:n]]
        biases = list(parts[n + 1 :]) or [None] * (n + 1)
        return turned, parts[n], biases[:n], biases[n]


class Expert(NamedTuple):
    """One expert's matrices, [D, F] before the activation and [F, D] after it, with biases or None."""

    firsts: list[Tensor]
    last: Tensor
    first_biases: list[Tensor | None]
    last_bias: Tensor | None


class Gradients(NamedTuple):
    """Where one expert's gradients go; None where nobody needs one."""

    firsts: list[Tensor | None]
    last: Tensor | None
    first_biases: list[Tensor | None]
    last_bias: Tensor | None

    def zero(self) -> None:
        """Of an expert that nobody visited."""
        for each in (*self.firsts, self.last, *self.first_biases, self.last_bias):
            if each is not None:
                each.zero_()

    def of_last(self, hidden_NF: Tensor, grad_ND: Tensor) -> None:
        """Writes the last matrix's gradient, and its bias's."""
        if self.last is not None:
            torch.mm(hidden_NF.T, grad_ND, out=self.last)
        if self.last_bias is not None:
            torch.sum(grad_ND, 0, out=self.last_bias)

    def of_first(self, x_ND: Tensor, grads_NF: Sequence[Tensor]) -> None:
        """Writes the first matrices' gradients, and their biases'."""
        for into, grad_NF in zip(self.firsts, grads_NF, strict=True):
            if into is not None:
                torch.mm(x_ND.T, grad_NF, out=into)
        for into, grad_NF in zip(self.first_biases, grads_NF, strict=True):
            if into is not None:
                torch.sum(grad_NF, 0, out=into)
