"""UOE: a mixture unlearns by one expert: the one that the texts to forget engage most, with its layer's router.

1. Attribution: mean weight that each expert of each layer has on the texts to forget, 0 where it is not chosen; the
   largest of all layers is the target.
2. Training of that expert's matrices and of its layer's router alone:
   forget + keep * (next-token loss on texts to keep) + anchor * mean ||g(x) - onehot(target)||^2 on texts to forget,
   g the router's softmax over all experts, so that the router does not learn to look away instead.
   forget is gradient ascent ("ga": minus the next-token loss) or NPO ("npo", Zhang et al. 2024, arXiv 2404.05868:
   -2/beta * log sigmoid(-beta * log-ratio to the model as it was)).
3. The checkpoint is written with those tensors changed and all others copied.

Source: Zhuang et al. 2024, UOE, arXiv 2411.18797 (published as SEUF, ACL 2025), read second-hand; no code of the
authors was found. Differences: means over tokens, not over sequences first; RMU is not offered. Training holds the
model in memory, whole; attribution does not.

Shape legend: B rows, S tokens, E experts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid, one_hot

from roster.compress.groups import REPORT, side_files
from roster.compress.layers import calibrate
from roster.compress.mixture import PARTS, Mixture
from roster.compress.seen import Seen
from roster.convert.kernels import Given
from roster.errors import RosterError, nearest
from roster.weights import MAX_SHARD, Copy, Kernel, Operand, Output, Plan, make_plan
from roster.weights.texts import Texts

LOSSES = ("npo", "ga")


@dataclass(frozen=True)
class Settings:
    """Of the training.

    Attributes:
        loss: to forget, "npo" or "ga".
        steps: of AdamW.
        rate: its learning rate.
        keep: weight of the loss on texts to keep.
        anchor: weight of the router's anchor.
        beta: of NPO.
        batch: rows of a step, of each kind.
        seed: of the order of rows.
    """

    loss: str = "npo"
    steps: int = 100
    rate: float = 1e-3
    keep: float = 1.0
    anchor: float = 1.0
    beta: float = 0.1
    batch: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises RosterError: an unknown loss, or numbers that cannot be."""
        if self.loss not in LOSSES:
            raise RosterError(f"uoe-unlearning: loss={self.loss!r}: {nearest(self.loss, LOSSES)}")
        if self.steps < 1 or self.batch < 1 or self.rate <= 0 or self.beta <= 0 or min(self.keep, self.anchor) < 0:
            raise RosterError("uoe-unlearning: steps, batch, rate and beta must be above 0, keep and anchor not below")


@dataclass(frozen=True)
class Target:
    """The expert that forgets.

    Attributes:
        layer, expert: which one.
        affinity_LE: mean weights of all experts on the texts to forget, by layer.
    """

    layer: int
    expert: int
    affinity_LE: Mapping[int, list[float]]


def attribute(mixture: Mixture, forget: Texts, progress: Callable[[int, int], None] | None = None) -> Target:
    """Who is engaged most by some texts, layer by layer from disk."""
    affinity: dict[int, list[float]] = {}

    def watch(layer: int, seen: Seen, block: nn.Module) -> bool:
        affinity[layer] = (seen.gate_E / forget.tokens).tolist()
        return False

    calibrate(mixture, forget, watch, progress=progress)
    _, layer, expert = max((x, layer, e) for layer, each in affinity.items() for e, x in enumerate(each))
    return Target(layer, expert, affinity)


def unlearn(model: Any, target: Target, forget: Texts, keep: Texts, settings: Settings) -> list[dict[str, float]]:
    """Trains the target in a model of transformers, in place; all other weights stay bit by bit.

    Returns:
        The parts of the loss at every step.
    """
    block = model.model.layers[target.layer].mlp
    trained = [block.experts.gate_up_proj, block.experts.down_proj, block.gate.weight]
    model.requires_grad_(False)
    for each in trained:
        each.requires_grad_(True)
    handles = [each.register_hook(_only(target.expert)) for each in trained[:2]]
    # No decay: it would move the experts that have no gradient.
    optimizer = torch.optim.AdamW(trained, lr=settings.rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(settings.seed)
    model.eval()
    told = []
    with torch.no_grad():
        was_B = torch.cat([_likelihood(model, *_rows(forget, at)) for at in torch.arange(len(forget.ids_BS)).split(8)])
    for _ in range(settings.steps):
        at = torch.randint(len(forget.ids_BS), (settings.batch,), generator=generator)
        ids, mask = _rows(forget, at)
        with _watched(block.gate) as logits:
            now_B = _likelihood(model, ids, mask)
        probability = logits[-1][mask.flatten().bool()].softmax(-1)
        wanted = one_hot(torch.tensor(target.expert), probability.shape[-1]).to(probability)
        parts = {
            "forget": _forget(now_B, was_B[at], mask, settings),
            "keep": settings.keep
            * _loss(model, *_rows(keep, torch.randint(len(keep.ids_BS), (settings.batch,), generator=generator))),
            "anchor": settings.anchor * ((probability - wanted) ** 2).sum(-1).mean(),
        }
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        optimizer.step()
        told.append({name: float(each.detach()) for name, each in parts.items()})
    for handle in handles:
        handle.remove()
    return told


def plan_unlearned(
    mixture: Mixture, model: Any, target: Target, report: Mapping[str, Any], max_shard: int = MAX_SHARD
) -> Plan:
    """The plan of the checkpoint with what `unlearn` changed, and all else as it was."""
    block = model.model.layers[target.layer].mlp
    gate, up = block.experts.gate_up_proj[target.expert].chunk(2)
    own = {"gate": gate, "up": up, "down": block.experts.down_proj[target.expert]}
    changed = {mixture.matrix_name(target.layer, target.expert, part): each for part, each in own.items()}
    changed[mixture.router_name(target.layer)] = block.gate.weight
    outputs = [Output(name, spec, (Operand(mixture.source, name),), Copy()) for name, spec in mixture.others().items()]
    for layer in mixture.layers:
        named = [(mixture.router_name(layer), mixture.router(layer))]
        for expert in range(mixture.experts):
            named += [(mixture.matrix_name(layer, expert, p), mixture.matrix(layer, expert, p)) for p in PARTS]
        for name, operand in named:
            kernel: Kernel = Given(changed[name].cpu()) if name in changed else Copy()
            outputs.append(Output(name, operand.spec, () if name in changed else (operand,), kernel))
    files = side_files(mixture, {})
    told = {"method": "uoe-unlearning", "layer": target.layer, "expert": target.expert, **report}
    files[REPORT] = (json.dumps(told, indent=1) + "\n").encode()
    title = f"uoe-unlearning: expert {target.expert} of layer {target.layer}"
    return make_plan(outputs, [mixture.source], files, max_shard, title)


def _only(expert: int) -> Callable[[Tensor], Tensor]:
    """Gradients of one expert; the others' are set to 0."""

    def hook(gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        kept[expert] = gradient[expert]
        return kept

    return hook


def _rows(texts: Texts, at: Tensor) -> tuple[Tensor, Tensor]:
    mask_BS = texts.mask_BS[at]
    longest = int(mask_BS.sum(1).max())
    return texts.ids_BS[at, :longest], mask_BS[:, :longest]


def _likelihood(model: Any, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
    """Log-likelihood of each row, [B]."""
    logits = model(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False).logits[:, :-1]
    loss = cross_entropy(logits.flatten(0, 1).float(), ids_BS[:, 1:].flatten(), reduction="none")
    return -(loss.view(len(ids_BS), -1) * mask_BS[:, 1:]).sum(1)


def _loss(model: Any, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
    """Mean loss of the next token."""
    return -_likelihood(model, ids_BS, mask_BS).sum() / mask_BS[:, 1:].sum()


def _forget(now_B: Tensor, was_B: Tensor, mask_BS: Tensor, settings: Settings) -> Tensor:
    if settings.loss == "ga":
        return now_B.sum() / mask_BS[:, 1:].sum()
    return -2 / settings.beta * logsigmoid(-settings.beta * (now_B - was_B)).mean()


@contextmanager
def _watched(gate: nn.Module) -> Iterator[list[Tensor]]:
    """The logits of a gate's calls."""
    found: list[Tensor] = []
    handle = gate.register_forward_hook(lambda module, given, out: found.append(out[0].float()))
    try:
        yield found
    finally:
        handle.remove()
