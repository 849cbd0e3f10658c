"""What the experts of a trained mixture have in common, and what its routers look for in them.

Covers weights (how alike the experts' matrices are) and behaviour (how alike their answers are to the same token, and
whether a router prefers the expert that answers loudest), layer by layer. Any model with `MoE` blocks.

Source: Lo et al., 2024, "A Closer Look into Mixture-of-Experts in Large Language Models", arXiv:2406.18219.
Differences: similarities of neurons are left out; a block is compared with its copy in the same layer only.

Shape legend: T tokens, E experts, D model width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.errors import RosterError
from roster.moe.layer import MoE


@dataclass(frozen=True)
class Layer:
    """One mixture, looked into.

    Attributes:
        site: its name in the model.
        weight_similarity: mean cosine between two experts' matrices, by the name of the matrix.
        answer_similarity: mean cosine between two experts' answers to the same token.
        loudest_first: share of tokens whose best-scored expert is the one whose answer has the largest norm.
        loudness_rank: mean place of the best-scored expert among all by norm, from 0 (largest) to 1; 0.5 is chance.
        chance: what `loudest_first` would be for a router that does not look, 1 / E.
    """

    site: str
    weight_similarity: dict[str, float]
    answer_similarity: float
    loudest_first: float
    loudness_rank: float
    chance: float


@torch.no_grad()
def look_into(model: nn.Module, **inputs: Any) -> list[Layer]:
    """Runs the model once and looks into every mixture whose experts are of one kind.

    Args:
        model: a model with `MoE` blocks.
        inputs: what it is called with. Padding counts as tokens: leave it out.

    Raises:
        RosterError: no mixture was reached.
    """
    with _watching(model) as seen:
        training = model.training
        model.eval()(**inputs)
        model.train(training)
    if not seen:
        raise RosterError(f"{type(model).__name__} has no mixture whose experts can be compared")
    return [_look(mixture, x_TD, scores_TE) for mixture, x_TD, scores_TE in seen]


def weight_similarity(experts: nn.Module) -> dict[str, Tensor]:
    """Cosines between the experts' matrices, [E, E], by the name of the matrix."""
    found = {}
    for name, tensor in experts.named_parameters():
        axes = re.search(r"_([A-Z]+)$", name)
        axis = axes.group(1).find("E") if axes else -1
        if axis >= 0 and tensor.shape[axis] == experts.num_experts:
            flat_EX = F.normalize(tensor.detach().movedim(axis, 0).flatten(1).float(), dim=1)
            found[name] = flat_EX @ flat_EX.T
    return found


@contextmanager
def _watching(model: nn.Module) -> Iterator[list[tuple[MoE, Tensor, Tensor]]]:
    """Collects (mixture, what it read, its scores) of every mixture while the model runs."""
    seen: list[tuple[MoE, Tensor, Tensor]] = []
    hooks = []
    for module in model.modules():
        if isinstance(module, MoE) and getattr(module.experts, "num_experts", 0) > 1:

            def keep(_: nn.Module, args: tuple[Any, ...], route: Any, mixture: MoE = module) -> None:
                seen.append((mixture, args[0], route.scores_TE))

            hooks.append(module.router.register_forward_hook(keep))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _look(mixture: MoE, x_TD: Tensor, scores_TE: Tensor) -> Layer:
    T, E = len(x_TD), cast(int, mixture.experts.num_experts)
    counts_E = torch.full((E,), T, device=x_TD.device)
    answers_ETD = mixture.experts(x_TD.repeat(E, 1), counts_E).view(E, T, -1).float()
    norm_TE = answers_ETD.norm(dim=2).T
    best_T1 = scores_TE[:, :E].argmax(1, keepdim=True)
    louder_T = (norm_TE > norm_TE.gather(1, best_T1)).sum(1).float()
    unit_TED = F.normalize(answers_ETD, dim=2).transpose(0, 1)
    return Layer(
        site=mixture.router.site,
        weight_similarity={name: _off_diagonal(each) for name, each in weight_similarity(mixture.experts).items()},
        answer_similarity=_off_diagonal((unit_TED @ unit_TED.transpose(1, 2)).mean(0)),
        loudest_first=float((louder_T == 0).float().mean()),
        loudness_rank=float((louder_T / (E - 1)).mean()),
        chance=1 / E,
    )


def _off_diagonal(square_EE: Tensor) -> float:
    E = len(square_EE)
    return float((square_EE.sum() - square_EE.diagonal().sum()) / (E * (E - 1)))
