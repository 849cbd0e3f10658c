"""Coefficients of task vectors learned on texts: what AdaMerging and aTLAS have in common.

Each step composes the model theta_0 + sum_t a_t (theta_t - theta_0) in memory, asks it, and takes from the gradient G
of its weights those of the coefficients: d loss / d a_tb = <G_b, theta_tb - theta_0b>. Task vectors are never in
memory: they are read from disk tensor by tensor, twice a step. What is held is one model and its gradients (8 bytes a
weight).

Shape legend: C coefficients of one model, T models, B rows, S tokens, V words.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from roster.errors import RosterError
from roster.merge.composition import part_of
from roster.merge.learned import Asked, Progress
from roster.merge.names import layer_of
from roster.weights import Source
from roster.weights.kept import Kept, read_all
from roster.weights.texts import Texts, digest
from roster.weights.whole import check_memory, load_whole, parameter_names

BLOCKS = ("tensor", "layer", "model")
"""What has one coefficient: each tensor, each layer (what lies in none is one more), or each model."""
OBJECTIVES = ("entropy", "loss", "forget")
FILE = "coefficients.json"


@dataclass(frozen=True)
class Training:
    """How coefficients are learned.

    Attributes:
        objective: "entropy" of the next token, "loss" (its cross-entropy), or "forget": loss of the second texts minus
            loss of the first. Summed over the texts.
        block: what has one coefficient, see `BLOCKS`.
        parts: into which each block's tensors are cut, each with a coefficient.
        start: value of all coefficients before.
        steps, rate, batch: of Adam; rows of each kind of texts a step.
        decay: of weights, decoupled (AdamW).
        clip: largest norm of a gradient; 0 for none.
        cosine: whether the rate falls to 0 along a cosine.
        bounded: whether coefficients are held between 0 and 1.
        seed: of the order of rows.
    """

    objective: str
    block: str
    parts: int
    start: float
    steps: int
    rate: float
    batch: int
    decay: float
    clip: float
    cosine: bool
    bounded: bool
    seed: int


@dataclass(frozen=True)
class Coefficient:
    """The coefficients of one tensor and one model, read when they are asked for."""

    key: str
    rows: tuple[int, int]
    model: int
    _kept: Kept = field(repr=False, compare=False)

    def read(self) -> Tensor:
        """[parts]."""
        assert self._kept.whole() is not None, "learn first"
        return read_all(self._kept.path)["coefficients"][self.rows[0] : self.rows[1], self.model]


class Coefficients:
    """What is learned, see `roster.merge.learned.Learned`.

    Raises:
        RosterError: slices of layers, which are no model that could be asked; texts that do not fit the objective.
    """

    def __init__(self, asked: Asked, training: Training, title: str) -> None:
        if not asked.whole or asked.base is None:
            raise RosterError(f"{title} composes whole models of one base: give models, not slices")
        if training.objective == "forget" and len(asked.texts) != 2:
            raise RosterError("objective=forget reads --data twice: what to forget, then what to keep")
        if any(len(each.ids_BS) < training.batch for each in asked.texts):
            raise RosterError(f"batch={training.batch}, but {min(len(e.ids_BS) for e in asked.texts)} rows of texts")
        self.base, self.models, self.texts, self.training = asked.base, asked.models, asked.texts, training
        self._title, self._json = title, asked.folder / FILE
        self._parameters = parameter_names(asked.base)
        names = dict.fromkeys(self._parameters.values())
        blocks = {name: _block(name, training.block) for name in names}
        order = {each: number for number, each in enumerate(dict.fromkeys(blocks.values()))}
        parts = training.parts
        self._rows = {name: (order[each] * parts, (order[each] + 1) * parts) for name, each in blocks.items()}
        self._count = len(order) * parts
        sources = [asked.base.fingerprint(), *(each.fingerprint() for each in asked.models.values())]
        key = (sources, [digest(each) for each in asked.texts], repr(training))
        self._kept = Kept(asked.folder / "coefficients.safetensors", hashlib.sha256(repr(key).encode()).hexdigest())

    def of(self, tensor: str, names: Sequence[tuple[str, str]]) -> list[Coefficient] | None:
        """See `Learned`."""
        if tensor not in self._parameters:
            return None
        rows = self._rows[self._parameters[tensor]]
        return [Coefficient(self._kept.key, rows, number, self._kept) for number in range(len(names))]

    def text(self) -> str:
        """See `Learned`."""
        rows = sum(len(each.ids_BS) for each in self.texts)
        memory = 8 * sum(self.base.specs[name].numel for name in self._rows)
        return (
            f"learns first: {self._count} coefficients for each of {len(self.models)} models by "
            f"{self.training.objective} of {rows} rows, {self.training.steps} steps; holds the model and gradients in "
            f"memory, {memory:,} bytes"
        )

    def files(self) -> Mapping[str, bytes | Path]:
        """See `Learned`."""
        return {FILE: self._json}

    def learn(self, progress: Progress | None = None) -> None:
        """See `Learned`."""
        if self._kept.whole() is None:
            check_memory(8 * sum(self.base.specs[name].numel for name in self._rows), self._title)
            self._train(progress)
        figures = self._kept.whole()
        assert figures is not None
        table_CT = read_all(self._kept.path)["coefficients"]
        told = {
            "method": self._title,
            "models": list(self.models),
            "training": vars(self.training),
            "objective": {when: float(figures[when]) for when in ("before", "after")},
            "coefficients": {name: table_CT[first:last].tolist() for name, (first, last) in self._rows.items()},
        }
        self._json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")

    def _train(self, progress: Progress | None) -> None:
        training = self.training
        model = load_whole(self.base)
        parameters = dict(model.named_parameters())
        kept, done = self._kept.half()
        start_CT = torch.full((self._count, len(self.models)), training.start)
        if not kept:
            self._compose(parameters, start_CT)
            kept = {"coefficients": start_CT, "before": torch.tensor(self._whole(model))}
        a_CT = torch.nn.Parameter(kept["coefficients"].clone())
        optimizer = torch.optim.AdamW([a_CT], lr=training.rate, weight_decay=training.decay)
        if done:
            moments = {name: kept[name] for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[a_CT] = {"step": torch.tensor(float(done)), **moments}
        for step in range(done, training.steps):
            if training.cosine:
                rate = 0.5 * training.rate * (1 + math.cos(math.pi * step / training.steps))
                optimizer.param_groups[0]["lr"] = rate
            a_CT.grad = self._gradient(model, parameters, a_CT.detach(), step)
            if training.clip > 0:
                torch.nn.utils.clip_grad_norm_([a_CT], training.clip)
            optimizer.step()
            state = {name: optimizer.state[a_CT][name] for name in ("exp_avg", "exp_avg_sq")}
            self._kept.save({"coefficients": a_CT.data, "before": kept["before"], **state}, step + 1)
            if progress is not None:
                progress("coefficients, steps", step + 1, training.steps)
        found_CT = self._held(a_CT.data)
        self._compose(parameters, found_CT)
        figures = {"before": repr(float(kept["before"])), "after": repr(self._whole(model))}
        self._kept.finish({"coefficients": found_CT}, figures)

    def _gradient(self, model: Any, parameters: Mapping[str, Tensor], a_CT: Tensor, step: int) -> Tensor:
        self._compose(parameters, self._held(a_CT))
        for each in parameters.values():
            each.requires_grad_(True)
            each.grad = None
        generator = torch.Generator().manual_seed(self.training.seed * 1_000_003 + step)
        with torch.enable_grad():
            for sign, texts in self._signed():
                rows = torch.randperm(len(texts.ids_BS), generator=generator)[: self.training.batch]
                (sign * self._objective(model, texts, rows)).backward()
        found_CT = torch.zeros_like(a_CT)
        for name, parameter in parameters.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            first, last = self._rows[name]
            for number, difference in enumerate(self._differences(name)):
                product = (gradient * difference).flatten()
                if last - first == 1:
                    found_CT[first, number] += product.sum()
                else:
                    part = part_of(name, 0, product.numel(), last - first)
                    found_CT[first:last, number].index_add_(0, part, product)
        for each in parameters.values():
            each.requires_grad_(False)
        if self.training.bounded:
            found_CT.mul_((a_CT >= 0) & (a_CT <= 1))
        return found_CT

    @torch.no_grad()
    def _compose(self, parameters: Mapping[str, Tensor], a_CT: Tensor) -> None:
        """Puts the composed weights into the model."""
        for name, parameter in parameters.items():
            first, last = self._rows[name]
            made = _read(self.base, name)
            part = None if last - first == 1 else part_of(name, 0, made.numel(), last - first).view(made.shape)
            for number, difference in enumerate(self._differences(name)):
                a = a_CT[first, number] if part is None else a_CT[first:last, number][part]
                made.addcmul_(difference, a)
            parameter.data.copy_(made)

    def _differences(self, name: str) -> Iterator[Tensor]:
        base = _read(self.base, name)
        for each in self.models.values():
            yield _read(each, name).sub_(base)

    def _held(self, a_CT: Tensor) -> Tensor:
        return a_CT.clamp(0, 1) if self.training.bounded else a_CT

    def _signed(self) -> list[tuple[int, Texts]]:
        if self.training.objective == "forget":
            return [(-1, self.texts[0]), (1, self.texts[1])]
        return [(1, each) for each in self.texts]

    def _objective(self, model: Any, texts: Texts, rows: Tensor) -> Tensor:
        mask_BS = texts.mask_BS[rows]
        longest = int(mask_BS.sum(1).max())
        ids_BS, mask_BS = texts.ids_BS[rows, :longest], mask_BS[:, :longest]
        logits_BSV = model(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False).logits.float()
        if self.training.objective == "entropy":
            return entropy(logits_BSV[mask_BS.bool()])
        real = mask_BS[:, 1:].bool()
        return cross_entropy(logits_BSV[:, :-1][real], ids_BS[:, 1:][real])

    @torch.no_grad()
    def _whole(self, model: Any) -> float:
        """The objective on all rows, a batch at a time: the mean over batches."""
        total = 0.0
        for sign, texts in self._signed():
            cuts = torch.arange(len(texts.ids_BS)).split(self.training.batch)
            total += sign * sum(float(self._objective(model, texts, rows)) for rows in cuts) / len(cuts)
        return total


def entropy(logits_NV: Tensor) -> Tensor:
    """Mean entropy of the softmax, in nats."""
    log_NV = logits_NV.log_softmax(-1)
    return -(log_NV.exp() * log_NV).sum(-1).mean()


def _block(name: str, kind: str) -> str:
    if kind == "layer":
        return str(layer_of(name))
    return name if kind == "tensor" else ""


def _read(source: Source, name: str) -> Tensor:
    spec = source.specs[name]
    return source.read(name, 0, spec.numel).view(spec.shape).float()
