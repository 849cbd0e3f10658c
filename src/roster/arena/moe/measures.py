"""What the arena reads off a model's routes, and what a model costs.

Shape legend: B batch rows, S tokens per row, E experts, T = B * S.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from roster.arena.moe.data import DOMAINS
from roster.dispatch import use


@dataclass
class Tap:
    """A recorder that keeps every site's gates; implements `roster.context.Recorder`."""

    gates: dict[str, list[Tensor]] = field(default_factory=dict)
    dropped: float = 0.0

    def begin(self, input_ids: Tensor | None, mask: Tensor | None, *, continues: bool) -> None:
        """A new forward call; nothing to do."""

    def record(
        self,
        site: str,
        gates_BSE: Tensor,
        mask_BS: Tensor | None,
        tokens: Tensor | None,
        dropped_E: Tensor | None = None,
    ) -> None:
        """Keeps the combine weights of one site."""
        self.gates.setdefault(site, []).append(gates_BSE.float().cpu())
        if dropped_E is not None:
            self.dropped += float(dropped_E.sum())


@dataclass(frozen=True)
class Routing:
    """How a model routed the validation text.

    Attributes:
        violation: how far the busiest expert is above the mean load: max load / mean load - 1, mean over the layers.
        entropy: of a token's weights, as a share of the most there can be; mean over tokens and layers.
        specialisation: mutual information between expert and domain as a share of the domain's entropy; 0 when every
            expert sees the same mix, 1 when an expert tells the domain. Mean over layers.
        experts_per_token: with a weight other than zero.
        dropped: pairs that a capacity turned away, per token and layer.
        top_expert: of every token, by site; -1 where nobody serves. For `fluctuation`.
    """

    violation: float
    entropy: float
    specialisation: float
    experts_per_token: float
    dropped: float
    top_expert: dict[str, Tensor]

    def figures(self) -> dict[str, float]:
        """The numbers, without the experts of each token."""
        return {name: value for name, value in vars(self).items() if name != "top_expert"}


@torch.no_grad()
def routing(model: Any, ids_BS: Tensor, domain_B: Tensor, **inputs: Tensor) -> Routing | None:
    """Routes text and looks; None for a model that routes nothing. Leaves the model in the mode it was in.

    Args:
        model: a routed model.
        ids_BS: token ids.
        domain_B: of each row, an index into `DOMAINS`.
        inputs: what the model wants besides.
    """
    was_training, tap = model.training, Tap()
    model.eval()
    model.roster.recorder = tap
    try:
        model(input_ids=ids_BS, use_cache=False, **inputs)
    finally:
        model.roster.recorder = None
        model.train(was_training)
    if not tap.gates:
        return None
    sites = {site: torch.cat(parts).flatten(0, 1) for site, parts in tap.gates.items()}
    domain_T = domain_B.cpu().repeat_interleave(ids_BS.shape[1])
    each = [_site_figures(gate_TE, domain_T) for gate_TE in sites.values()]
    mean = {name: sum(figures[name] for figures in each) / len(each) for name in each[0]}
    top = {
        site: torch.where(gate_TE.amax(1) > 0, gate_TE.argmax(1), torch.tensor(-1)) for site, gate_TE in sites.items()
    }
    return Routing(**mean, dropped=tap.dropped / (domain_T.numel() * len(sites)), top_expert=top)


def _site_figures(gate_TE: Tensor, domain_T: Tensor) -> dict[str, float]:
    chosen_TE = (gate_TE != 0).float()
    load_E = chosen_TE.sum(0)
    weight_TE = gate_TE.clamp_min(0)
    share_TE = weight_TE / weight_TE.sum(1, keepdim=True).clamp_min(1e-9)
    entropy_T = -(share_TE * share_TE.clamp_min(1e-9).log()).sum(1)
    most = torch.log(torch.tensor(float(max(gate_TE.shape[1], 2))))
    joint_NE = torch.stack([chosen_TE[domain_T == index].sum(0) for index in range(len(DOMAINS))])
    return {
        "violation": float(load_E.max() / load_E.mean().clamp_min(1e-9) - 1),
        "entropy": float(entropy_T.mean() / most),
        "specialisation": _information(joint_NE),
        "experts_per_token": float(chosen_TE.sum(1).mean()),
    }


def _information(joint_NE: Tensor) -> float:
    """Mutual information between rows and columns of a table of counts, as a share of the rows' entropy."""
    p_NE = joint_NE / joint_NE.sum().clamp_min(1e-9)
    p_N, p_E = p_NE.sum(1, keepdim=True), p_NE.sum(0, keepdim=True)
    information = (p_NE * (p_NE.clamp_min(1e-12) / (p_N * p_E).clamp_min(1e-12)).log()).sum()
    entropy = -(p_N * p_N.clamp_min(1e-12).log()).sum()
    return float(information / entropy.clamp_min(1e-9))


def fluctuation(before: Routing, after: Routing) -> float:
    """Share of tokens whose first expert is another one than at an earlier checkpoint, mean over the layers."""
    changed = [(before.top_expert[site] != top).float().mean() for site, top in after.top_expert.items()]
    return float(torch.stack(changed).mean())


@torch.no_grad()
def flops_per_token(model: Any, ids_BS: Tensor, **inputs: Tensor) -> float:
    """Floating-point operations of one forward pass per token, by torch's own counter of matmuls."""
    # The plain back end is made of ordinary matmuls, which the counter knows; the arithmetic is the same in all.
    with use("reference"), FlopCounterMode(display=False) as counter:
        model(input_ids=ids_BS, use_cache=False, **inputs)
    flops: float = counter.get_total_flops() / ids_BS.numel()
    return flops


def bytes_for_backward(model: Any, ids_BS: Tensor, **inputs: Tensor) -> int:
    """Bytes that one training step keeps for its backward pass, parameters not counted."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output kept by its own node would never be freed

    was_training = model.training
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(input_ids=ids_BS, labels=ids_BS, use_cache=False, **inputs)
    del output
    model.train(was_training)
    return sum(kept.values())
