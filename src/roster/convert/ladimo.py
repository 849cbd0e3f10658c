"""LaDiMo: each dense block is distilled into a mixture of smaller experts, layer by layer, and then it is told how many
experts a token needs.

Distilling: experts start as slices of the block's hidden units (slices come again where there are more experts than
slices), scaled so that their equal mean is the block; a linear router starts near 0. Both are trained by AdamW on
||MoE(x) - FFN(x)||^2 for x that the dense model's own layers read, with the container's own arithmetic, the softmax
over the k best. Layers are independent, and each is written to disk when it is ready.
Policy: on the same texts, a layer needs the fewest experts whose largest weights (softmax over all) add up to `enough`
on average. Stock containers have one number for all layers: the largest that any layer needs, at most `top_k`.

Source: Kim et al. 2024, LaDiMo: Layer-wise Distillation Inspired MoEfier, arXiv 2408.04278; no code of the authors was
found, and how experts start is roster's choice. Differences: one number of experts for all layers, where theirs differ.

Shape legend: T tokens, K chosen, E experts, D model width, F expert width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from roster.convert.container import Expert, Mixtral, Sizes, side_files
from roster.convert.dense import PARTS, Dense
from roster.convert.fitting import at_blocks
from roster.errors import RosterError
from roster.header import Spec, read_header
from roster.weights import MAX_SHARD, Checkpoint, Copy, Operand, Output, Plan, make_plan
from roster.weights.layers import Progress
from roster.weights.texts import Texts, digest


@dataclass(frozen=True)
class Distilled:
    """One layer.

    Attributes:
        first, last: mean squared error over the block's mean square, before training and after.
        needed: experts that a token needs.
    """

    first: float
    last: float
    needed: int


def plan_ladimo(
    dense: Dense,
    texts: Texts,
    scratch: Path,
    experts: int = 4,
    slices: int = 2,
    top_k: int = 2,
    steps: int = 200,
    rate: float = 1e-3,
    batch: int = 256,
    enough: float = 0.9,
    seed: int = 0,
    max_shard: int = MAX_SHARD,
    progress: Progress | None = None,
) -> Plan:
    """The plan of the distilled mixture, a Mixtral.

    Args:
        dense: the model.
        texts: to distil on.
        scratch: a folder for the trained layers; the plan reads them from there.
        experts: of a layer.
        slices: an expert has the block's hidden units over this.
        top_k: experts that a token gets in training.
        steps: of each layer's training.
        rate: of learning.
        batch: tokens of a step.
        enough: share of the router's weight that a token's experts must have.
        seed: of the order of tokens.
        max_shard: bytes of one output file.
        progress: told of layers done.

    Raises:
        RosterError: a width that does not divide, or numbers that cannot be.
    """
    if slices < 1 or dense.width % slices:
        raise RosterError(f"a block of {dense.width} hidden units does not divide into {slices} slices")
    if not 0 < enough <= 1 or min(steps, batch) < 1 or rate <= 0:
        raise RosterError("ladimo: enough is above 0 and at most 1; steps, batch and rate are above 0")
    Sizes(experts, top_k, dense.width // slices)
    scratch.mkdir(parents=True, exist_ok=True)
    told: dict[int, Distilled] = {}
    training = Training(experts, slices, top_k, steps, rate, batch, seed)
    key = hashlib.sha256(repr((training, enough, digest(texts), dense.source.fingerprint())).encode()).hexdigest()

    def look(layer: int, block: Any, x_TD: Tensor) -> None:
        file = scratch / f"{layer}.safetensors"
        found = _finished(file, key)
        if found is None:
            own, first, last = distil(block, x_TD, training)
            found = Distilled(first, last, enough_experts(x_TD @ own["rows"].T, enough))
            tensors = {"rows": own["rows"]}
            for part in PARTS:
                tensors |= {f"{expert}.{part}": own[part][expert].contiguous() for expert in range(experts)}
            half = file.with_suffix(".half")
            save_file(tensors, half, metadata={"key": key, "told": json.dumps(vars(found))})
            half.rename(file)
        told[layer] = found

    at_blocks(dense, texts, look, progress=progress)
    needed = min(max(each.needed for each in told.values()), top_k)
    return _plan(dense, scratch, training, needed, told, max_shard)


@dataclass(frozen=True)
class Training:
    """See `plan_ladimo`."""

    experts: int
    slices: int
    top_k: int
    steps: int
    rate: float
    batch: int
    seed: int


def _finished(file: Path, key: str) -> Distilled | None:
    """What a killed run has left of a layer; None where there is nothing, or of another run."""
    if not file.is_file():
        return None
    metadata = read_header(file)[1]
    return Distilled(**json.loads(metadata["told"])) if metadata.get("key") == key else None


def distil(block: Any, x_TD: Tensor, training: Training) -> tuple[dict[str, Tensor], float, float]:
    """One block's mixture (gate, up [E, F, D], down [E, D, F], rows [E, D]), its error before and after."""
    own, top_k, batch = _start(block, training.experts, training.slices), training.top_k, training.batch
    wanted_TD = block.down_proj(block.act_fn(block.gate_proj(x_TD)) * block.up_proj(x_TD)).detach()
    scale = wanted_TD.pow(2).mean()
    optimizer = torch.optim.AdamW(own.values(), lr=training.rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(training.seed)

    @torch.no_grad()
    def error() -> float:
        parts = zip(x_TD.split(256), wanted_TD.split(256), strict=True)
        apart = [(answer(block, own, x, top_k) - wanted).pow(2).sum() for x, wanted in parts]
        return float(torch.stack(apart).sum() / wanted_TD.numel() / scale)

    first = error()
    for _ in range(training.steps):
        at = torch.randint(len(x_TD), (min(batch, len(x_TD)),), generator=generator)
        loss = (answer(block, own, x_TD[at], top_k) - wanted_TD[at]).pow(2).mean() / scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: each.detach() for name, each in own.items()}, first, error()


def answer(block: Any, own: Mapping[str, Tensor], x_TD: Tensor, top_k: int) -> Tensor:
    """What the mixture makes of tokens: softmax over the k best."""
    middle_ETF = block.act_fn(x_TD @ own["gate"].mT) * (x_TD @ own["up"].mT)
    said_ETD = middle_ETF @ own["down"].mT
    score_TK, chosen_TK = (x_TD @ own["rows"].T).topk(top_k)
    weight_TE = torch.zeros(len(x_TD), len(said_ETD)).scatter(1, chosen_TK, score_TK.softmax(-1))
    return torch.einsum("te,etd->td", weight_TE, said_ETD)


def enough_experts(logits_TE: Tensor, enough: float) -> int:
    """The fewest experts whose largest weights add up to a share, on average over tokens."""
    held_E = logits_TE.softmax(-1).sort(descending=True).values.mean(0).cumsum(0)
    return int((held_E < enough - 1e-6).sum().clamp(max=len(held_E) - 1)) + 1


def _start(block: Any, experts: int, slices: int) -> dict[str, Any]:
    """Slices of the block, `slices` times as large; a little noise on the router lets experts part."""
    size = len(block.gate_proj.weight) // slices
    units = [slice(e % slices * size, (e % slices + 1) * size) for e in range(experts)]
    gate, up, down = (getattr(block, f"{part}_proj").weight.detach() for part in PARTS)
    made = {
        "gate": torch.stack([gate[each] for each in units]),
        "up": torch.stack([up[each] for each in units]),
        "down": torch.stack([down[:, each] for each in units]) * slices,
        "rows": torch.randn(experts, gate.shape[1], generator=torch.Generator().manual_seed(0)) * 0.02,
    }
    return {name: nn.Parameter(each.float().clone()) for name, each in made.items()}


def _plan(
    dense: Dense, scratch: Path, training: Training, top_k: int, told: Mapping[int, Distilled], max_shard: int
) -> Plan:
    experts, width = training.experts, dense.width // training.slices
    into = Mixtral()
    outputs = [Output(name, spec, (Operand(dense.source, name),), Copy()) for name, spec in dense.others().items()]
    sources: list[Checkpoint] = [dense.source]
    for layer in told:
        trained = Checkpoint(scratch / f"{layer}.safetensors")
        sources.append(trained)
        made = [Expert({p: Operand(trained, f"{e}.{p}") for p in PARTS}, {}) for e in range(experts)]
        outputs += into.outputs(layer, made, None)
        rows = Operand(trained, "rows")
        outputs.append(Output(into.router(layer), rows.spec, (rows,), Copy()))
    dtype = dense.operand(0, "gate").spec.dtype
    outputs = [Output(each.name, Spec(dtype, each.spec.shape), each.operands, each.kernel) for each in outputs]
    files = side_files(dense, into, Sizes(experts, top_k, width))
    errors = [f"{each.first:.3f} -> {each.last:.3f}" for each in told.values()]
    title = f"ladimo: {top_k} of {experts} experts of {width} hidden units; errors by layer {', '.join(errors)}"
    return make_plan(outputs, sources, files, max_shard, title)
