"""Omni-SMoLA: LoRA experts read weighted means of all tokens of a row, and every token takes its share of what they
make of them.

Equation: L = s cos(x, phi); D = softmax over a row's tokens of L, C = softmax over all slots of L;
    y = W x + C concat_e(scale_e B_e A_e (D^T x)_e).
Shapes: phi is [E, P, I] at every linear layer, P slots per expert.
Trains: slots and experts together; `train_experts=False` learns only the slots.
Siblings: `soft-moe` does the same to feed-forward blocks; `mov-molora` mixes experts token by token.
Source: Wu et al., 2023, "Omni-SMoLA: Boosting Generalist Multimodal Models with Soft Mixture of Low-rank Experts",
    arXiv:2312.00968.
Differences: written from the abstract, with Soft MoE's own scores. The source has a set of experts for text, one for
    pictures and one for both; the models here read one kind of token, and have one set. A token's output depends on
    those after it, so a model that writes is refused: this is for encoders. Every expert must update every layer.
"""

from __future__ import annotations

from torch import nn

from roster.adapters.mixing import Mixing, Site
from roster.errors import RosterError
from roster.experts import SlotExperts
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Slots
from roster.select import Soft


def omni_smola(slots: int = 1, train_experts: bool = True) -> Mixing:
    """Soft mixture of low-rank experts.

    Args:
        slots: P, rows that every expert reads of each row of the batch.
        train_experts: False trains only the slots.
    """

    def router(site: Site) -> Router:
        return Router(Slots(site.width, site.num_experts, slots), Soft(slots))

    def experts(site: Site) -> nn.Module:
        for name, update in zip(site.experts, site.updates, strict=True):
            if update is None:
                raise RosterError(
                    f"omni-smola: expert {name!r} has no update of {site.name!r}, and in a soft mixture every expert "
                    "takes part: train all adapters on the same layers"
                )
        return SlotExperts(site.factors, trains=train_experts)

    trains = frozenset({"router", "experts"} if train_experts else {"router"})
    return Mixing(router, at="linear", experts=experts, trains=trains, causal=False)


RECIPE = Recipe(
    slug="omni-smola",
    title="Omni-SMoLA",
    source="Wu et al., 2023, Omni-SMoLA: Boosting Generalist Multimodal Models with Soft Mixture of Low-rank Experts, "
    "arXiv:2312.00968",
    compose=omni_smola,
    trains="router and experts",
    batch_invariant=True,
    causal=False,
    claim="Soft low-rank experts make a generalist better at a mixture of tasks than one LoRA, and worse at none.",
    evidence="tests/recipes/test_soft_experts.py",
    needs=("training",),
)
