"""Nexus: models of several domains become experts, and a domain's description makes its router row.

The seed's block is always on, the domain models' blocks are routed experts, one a token, with the softmax's own weight:
y = FFN_0(x) + p_1 FFN_1(x). Every tensor outside the blocks is the mean over all models. Router row of a domain: e_i =
P(d_i) = W2 (silu(W1 d_i) * (W3 d_i)), d_i the mean state of the seed's last layer on the domain's texts, at unit
length; P is learned, one a layer. A new expert is appended with e_new = P(d_new), without new parameters: give the
mixture, the seed and the new model.

Source: Gritsch et al. 2024, Nexus, arXiv 2408.15901; no code of the authors was found. Differences: there everything is
trained together on the language model's loss; here P is fitted layer by layer so that softmax(x e) names the domain of
tokens that go through the seed, and nothing else is trained. The mixture must be trained after this. P and the
descriptions lie beside the weights, in `nexus.safetensors`.

Shape legend: T tokens, E domains, D model width, H width inside P.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, silu

from roster.convert.btx import check_alike
from roster.convert.container import Expert, Sizes, find_container, side_files
from roster.convert.dense import PARTS, Dense
from roster.convert.fitting import at_blocks
from roster.convert.kernels import Given
from roster.convert.read_me import together
from roster.errors import RosterError
from roster.header import Spec
from roster.merge.linear import Linear
from roster.merge.side_files import model_files
from roster.weights import MAX_SHARD, Checkpoint, Copy, Operand, Output, Plan, make_plan
from roster.weights.layers import Progress
from roster.weights.texts import Texts

SIDE = "nexus.safetensors"
_QWEN = find_container("qwen2-moe")  # the one whose weights need not sum to 1


def plan_nexus(
    models: Sequence[Dense],
    domains: Sequence[Texts],
    inside: int = 64,
    steps: int = 200,
    rate: float = 1e-2,
    seed: int = 0,
    max_shard: int = MAX_SHARD,
    progress: Progress | None = None,
) -> Plan:
    """The plan of the mixture, a Qwen2-MoE.

    Args:
        models: the seed, and one of each domain, trained from it.
        domains: texts of each domain.
        inside: H.
        steps: of fitting P.
        rate: of learning P.
        seed: of P's start.
        max_shard: bytes of one output file.
        progress: told of layers done.

    Raises:
        RosterError: models that are not alike, or not one text file a domain.
    """
    if len(models) < 3:
        raise RosterError("nexus is made of a seed and at least two models of domains, in this order")
    if len(domains) != len(models) - 1:
        raise RosterError(
            f"nexus reads the texts of each domain (--data, once for each model after the seed): {len(models) - 1}, "
            f"not {len(domains)}"
        )
    check_alike(models)
    first = models[0]
    both, domain_T = together(domains)
    read: list[Tensor] = []
    last_BSD = at_blocks(first, both, lambda layer, block, x_TD: read.append(x_TD), progress=progress)
    last_TD = last_BSD[both.mask_BS.bool()]
    described_ED = torch.stack([last_TD[domain_T == each].mean(0) for each in range(len(domains))])
    described_ED = normalize(described_ED, dim=-1)
    kept: dict[str, Tensor] = {"described_ED": described_ED}
    rows = []
    for layer, x_TD in enumerate(read):
        own = fit_projection(x_TD, domain_T, described_ED, inside, steps, rate, seed + layer)
        kept |= {f"{layer}.{name}": each for name, each in own.items()}
        rows.append(project(own, described_ED))
    outputs = []
    for name, spec in first.others().items():
        operands = tuple(Operand(each.source, name) for each in models)
        mean = Linear((1.0,) * len(models)) if spec.dtype.is_floating_point else Copy()
        outputs.append(Output(name, spec, operands, mean))
    for layer, rows_ED in enumerate(rows):
        outputs += _QWEN.outputs(layer, [_expert(each, layer) for each in models[1:]], _expert(first, layer))
        dtype = first.operand(layer, "gate").spec.dtype
        outputs.append(Output(_QWEN.router(layer), Spec(dtype, tuple(rows_ED.shape)), (), Given(rows_ED)))
    files = side_files(first, _QWEN, Sizes(len(domains), 1, first.width, first.width, normalised=False))
    files[SIDE] = save(kept)
    sources = list({each.source.name: each.source for each in models}.values())
    return make_plan(outputs, sources, files, max_shard, f"nexus of {len(domains)} domains")


def plan_append(mixture: Checkpoint, seed: Dense, new: Dense, texts: Texts, max_shard: int = MAX_SHARD) -> Plan:
    """The plan of a mixture of `plan_nexus` with one more expert.

    Args:
        mixture: as `plan_nexus` has written it.
        seed: the model that all began from, whose states describe the new domain.
        new: the model of the new domain.
        texts: of it.
        max_shard: bytes of one output file.

    Raises:
        RosterError: no mixture of nexus, or models that are not alike.
    """
    side = mixture.folder / SIDE
    if not side.is_file():
        raise RosterError(f"{mixture.name!r} has no {SIDE}: only what nexus wrote can be given another expert")
    check_alike([seed, new])
    kept = load_file(side)
    count = len(kept["described_ED"])
    last_BSD = at_blocks(seed, texts, lambda layer, block, x_TD: None)
    described_D = normalize(last_BSD[texts.mask_BS.bool()].mean(0), dim=-1)
    kept["described_ED"] = torch.cat([kept["described_ED"], described_D[None]])
    outputs = []
    layers = range(len(new.blocks))
    routers = {_QWEN.router(layer): layer for layer in layers}
    for name, spec in mixture.specs.items():
        old = Operand(mixture, name)
        if name in routers:
            row_1D = project(_projection(kept, routers[name]), described_D[None])
            before = mixture.read(name, 0, spec.numel).view(spec.shape).float()
            whole = torch.cat([before, row_1D])
            outputs.append(Output(name, Spec(spec.dtype, tuple(whole.shape)), (), Given(whole)))
        elif name in new.others():
            # The old mean is over the seed and `count` models.
            outputs.append(Output(name, spec, (old, Operand(new.source, name)), Linear((count + 1.0, 1.0))))
        else:
            outputs.append(Output(name, spec, (old,), Copy()))
    for layer in layers:
        for part in PARTS:
            own = new.operand(layer, part)
            name = f"model.layers.{layer}.mlp.experts.{count}.{part}_proj.weight"
            outputs.append(Output(name, own.spec, (own,), Copy()))
    files: dict[str, bytes | Path] = model_files(mixture.folder)
    config = {**mixture.config, "num_experts": count + 1}
    config.pop("num_local_experts", None)
    files["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
    files[SIDE] = save(kept)
    return make_plan(outputs, [mixture, new.source], files, max_shard, f"nexus: expert {count} appended")


def fit_projection(
    x_TD: Tensor, domain_T: Tensor, described_ED: Tensor, inside: int, steps: int, rate: float, seed: int
) -> dict[str, Tensor]:
    """P of one layer: `first` and `gate` [H, D], `second` [D, H]."""
    generator = torch.Generator().manual_seed(seed)
    width = x_TD.shape[1]
    shapes = {"first": (inside, width), "gate": (inside, width), "second": (width, inside)}
    own: dict[str, Any] = {
        name: (torch.randn(shape, generator=generator) * shape[1] ** -0.5).requires_grad_()
        for name, shape in shapes.items()
    }
    optimizer = torch.optim.Adam(own.values(), lr=rate)
    x_TD, described_ED = x_TD.detach(), described_ED.detach()
    with torch.enable_grad():
        for _ in range(steps):
            loss = cross_entropy(x_TD @ project(own, described_ED).T, domain_T)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {name: each.detach() for name, each in own.items()}


def project(own: Mapping[str, Tensor], described_ED: Tensor) -> Tensor:
    """P(d): rows of the router, [E, D]."""
    # At unit length, a description's entries are of size 1 / sqrt(D); P's matrices expect size 1.
    d_ED = described_ED * described_ED.shape[1] ** 0.5
    middle_EH = silu(d_ED @ own["first"].T) * (d_ED @ own["gate"].T)
    rows_ED: Tensor = middle_EH @ own["second"].T / float(described_ED.shape[1]) ** 0.5
    return rows_ED


def _projection(kept: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    return {name: kept[f"{layer}.{name}"] for name in ("first", "gate", "second")}


def _expert(dense: Dense, layer: int) -> Expert:
    return Expert({part: dense.operand(layer, part) for part in PARTS}, {})
