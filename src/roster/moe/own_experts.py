"""The experts of existing mixtures, served by roster: how their modules are read, by what they are made of.

Nothing is copied: the tensors stay the parameters that they are, under the names that they have.

Shape legend: T tokens, K chosen per token, R rows grouped by expert, E experts, D model width, F expert width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from roster.dispatch import grouped_matmul
from roster.errors import RosterError
from roster.route import Route


class Reader(Protocol):
    """How one form of experts is called and served; they are modules of others, read by the attributes that they have.

    Attributes:
        flat: whether their gate reads [T, D], or rows of tokens [B, S, D].
    """

    flat: bool

    def matches(self, experts: nn.Module) -> bool:
        """Whether a module is experts of this form."""
        ...

    def sizes(self, experts: Any) -> tuple[int, int, int]:
        """(E, D, F)."""
        ...

    def route(self, experts: Any, chosen: Tensor, weight: Tensor) -> Route:
        """The decision that the model's own router hands to its experts."""
        ...

    def rows(self, experts: Any, rows_RD: Tensor, counts_E: Tensor) -> Tensor:
        """What the experts make of their rows; undefined for rows behind the last group."""
        ...


class Stacked:
    """All experts in one tensor per matrix: what transformers' own dispatch (`use_experts_implementation`) reads."""

    flat = True

    def matches(self, experts: nn.Module) -> bool:
        """By the marks that transformers leaves on such modules."""
        marks = ("has_gate", "has_bias", "is_transposed", "_apply_gate")
        return all(hasattr(experts, each) for each in marks) and "down_proj" in experts._parameters

    def sizes(self, experts: Any) -> tuple[int, int, int]:
        """(E, D, F)."""
        E, first, second = experts.down_proj.shape
        return (E, second, first) if experts.is_transposed else (E, first, second)

    def route(self, experts: Any, chosen: Tensor, weight: Tensor) -> Route:
        """[T, K] indices and weights; an index of E stands for nobody in transformers, too."""
        weight_TK = weight.reshape(-1, weight.shape[-1])
        return Route.slots(chosen.reshape(weight_TK.shape), weight_TK, self.sizes(experts)[0])

    def rows(self, experts: Any, rows_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Two grouped matmuls with the module's own gate between them."""
        first = "gate_up_proj" if experts.has_gate else "up_proj"
        middle = self._apply(experts, first, rows_RD, counts_E)
        middle_RF = experts._apply_gate(middle) if experts.has_gate else experts.act_fn(middle)
        out_RD = self._apply(experts, "down_proj", middle_RF, counts_E)
        return experts.post_expert_norm(out_RD) if getattr(experts, "has_post_expert_norm", False) else out_RD

    def _apply(self, experts: Any, name: str, rows: Tensor, counts_E: Tensor) -> Tensor:
        weight = getattr(experts, name)
        out = grouped_matmul(rows, weight if experts.is_transposed else weight.mT, counts_E)
        if not experts.has_bias:
            return out
        # Which expert each row belongs to, without a shape that depends on the data; nobody's rows take any bias.
        row_R = torch.arange(len(rows), device=rows.device)
        expert_R = torch.searchsorted(counts_E.cumsum(0), row_R, right=True).clamp(max=len(counts_E) - 1)
        biased: Tensor = out + getattr(experts, f"{name}_bias")[expert_R]
        return biased


class OneByOne:
    """One module per expert, `expert_0` and so on: Switch Transformers."""

    flat = False

    def matches(self, experts: nn.Module) -> bool:
        """By the names of the children. NLLB's look the same, but drop tokens in a way of their own."""
        if not isinstance(experts, nn.ModuleDict) or hasattr(experts, "moe_token_dropout"):
            return False
        return "expert_0" in experts and hasattr(experts, "num_experts") and any(self._linears(experts))

    def sizes(self, experts: Any) -> tuple[int, int, int]:
        """(E, D, F)."""
        F, D = next(self._linears(experts)).weight.shape
        return experts.num_experts, D, F

    def route(self, experts: Any, chosen: Tensor, weight: Tensor) -> Route:
        """A mask [T, 1, E] of what was chosen (nothing, for a token over capacity) and the weight [T, 1] of it."""
        E = experts.num_experts
        chosen_TE = chosen.reshape(-1, E)
        expert_T1 = torch.where(chosen_TE.any(1), chosen_TE.argmax(1), E)[:, None]
        return Route.slots(expert_T1, weight.reshape(-1, 1).masked_fill(expert_T1 == E, 0.0), E)

    def rows(self, experts: Any, rows_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Each expert's own module on its own rows."""
        sizes = counts_E.tolist()
        *groups, nobody = rows_RD.split([*sizes, len(rows_RD) - sum(sizes)])
        # As in transformers, an expert without rows is not called: it shall have no gradient, not one of zeros.
        out = [experts[f"expert_{index}"](group) for index, group in enumerate(groups) if len(group)]
        return torch.cat([*out, torch.zeros_like(nobody)])

    def _linears(self, experts: nn.ModuleDict) -> Iterator[nn.Linear]:
        return (each for each in experts["expert_0"].modules() if isinstance(each, nn.Linear))


READERS: tuple[Reader, ...] = (Stacked(), OneByOne())


def reader_of(module: nn.Module) -> Reader | None:
    """Who can read a module as experts; None when it is none, or of an unknown form."""
    return next((reader for reader in READERS if reader.matches(module)), None)


def held_by(block: nn.Module) -> tuple[nn.Module, Reader]:
    """The experts of a block, and who can read them.

    Raises:
        RosterError: it has none, or of an unknown form.
    """
    experts = getattr(block, "experts", None)
    if not isinstance(experts, nn.Module) or (reader := reader_of(experts)) is None:
        raise RosterError(f"{type(block).__name__} holds no experts that roster can read")
    return experts, reader


class Borrowed(nn.Module):
    """The model's own experts as a part for a composition: `(rows_RD grouped by expert, counts_E) -> rows_RD`.

    It owns nothing: the parameters stay where they are in the model.

    Args:
        experts: the model's module.
        reader: who can read it.
    """

    def __init__(self, experts: nn.Module, reader: Reader):
        super().__init__()
        self.reader = reader
        self.num_experts, _, _ = reader.sizes(experts)
        self._owner = [experts]  # in a list, so that it is not registered a second time

    def forward(self, rows_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Rows out for rows in."""
        return self.reader.rows(self._owner[0], rows_RD, counts_E)
