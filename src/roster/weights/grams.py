"""Gram matrices of what linear layers read, from texts: one layer in memory at a time.

Equation: G = X^T X / T for the T tokens X [T, I] that reach a linear layer. Layers that read the same (query, key and
value; gate and up) share one matrix. Each layer's matrices are a file of their own, so that a killed run goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from roster.errors import RosterError
from roster.weights.kept import Kept, read_all
from roster.weights.layers import Progress, Send, run_layers
from roster.weights.source import Model, Source, folder_of
from roster.weights.texts import Texts, digest

_ALIASES = "aliases"


@dataclass(frozen=True)
class Gram:
    """One matrix, read when it is asked for.

    Attributes:
        of: the linear layer's name.
        key: of what it is made of.
        width: its order.
        tokens: of the texts.
    """

    of: str
    key: str
    width: int
    tokens: int
    _kept: Kept = field(repr=False, compare=False)

    def read(self) -> Tensor:
        """[I, I], float32."""
        figures = self._kept.whole()
        assert figures is not None, "gather first"
        return read_all(self._kept.path)[json.loads(figures[_ALIASES])[self.of]]


class Grams:
    """The matrices of all linear layers within a model's decoder layers.

    Args:
        model: whose; with `model.embed_tokens` and `model.layers.N`, as Llama and its kin have them.
        texts: to send.
        folder: where the files are kept.
        name: what their names start with.

    Raises:
        RosterError: a model of another build.
    """

    def __init__(self, model: Source, texts: Texts, folder: Path, name: str) -> None:
        self._widths = linear_layers(model)
        self.model, self.texts = cast(Model, model), texts  # what has no folder has been refused
        self.key = hashlib.sha256(repr(("gram", model.fingerprint(), digest(texts))).encode()).hexdigest()
        layers = max((int(each.split(".")[2]) for each in self._widths), default=-1) + 1
        self._files = [Kept(folder / f"{name}-{number:04d}.safetensors", self.key) for number in range(layers)]

    def of(self, linear: str) -> Gram | None:
        """By a linear layer's name; None for anything else."""
        if linear not in self._widths:
            return None
        file = self._files[int(linear.split(".")[2])]
        return Gram(linear, self.key, self._widths[linear], self.texts.tokens, file)

    def __len__(self) -> int:
        """How many linear layers there are."""
        return len(self._widths)

    def gather(self, progress: Progress | None = None) -> None:
        """Makes the files that are not there.

        Raises:
            RosterError: a linear layer that no token reaches, or answers that are not finite.
        """
        if all(each.whole() is not None for each in self._files):
            return
        run_layers(self.model, self.texts, self._visit, progress=progress)

    def _visit(self, number: int, layer: Any, send: Send) -> Tensor:
        if self._files[number].whole() is not None:
            return send()
        watch = _Watch(f"model.layers.{number}.", layer)
        out = send(watch.before)
        matrices, aliases = watch.end(self.model.name)
        self._files[number].finish(matrices, {_ALIASES: json.dumps(aliases)})
        return out


def linear_layers(model: Source) -> dict[str, int]:
    """The linear layers within a model's decoder layers whose weights a source has, and what each reads.

    Raises:
        RosterError: a model that is not built as Llama and its kin are.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModel

    built: Any = None
    folder = folder_of(model)
    if folder is not None and (folder / "config.json").is_file():
        with init_empty_weights(include_buffers=False):
            built = AutoModel.from_config(AutoConfig.from_pretrained(str(folder)))
    if not hasattr(built, "layers") or "model.embed_tokens.weight" not in model.specs:
        raise RosterError(
            f"{model.name!r} cannot be run layer by layer: it has no model.embed_tokens and model.layers, as Llama and "
            "its kin have"
        )
    found = {f"model.{name}": each for name, each in built.named_modules() if isinstance(each, nn.Linear)}
    return {name: each.in_features for name, each in found.items() if f"{name}.weight" in model.specs}


class _Watch:
    """The inputs of one layer's linear layers, as products."""

    def __init__(self, prefix: str, layer: nn.Module) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._owner: dict[str, str] = {}
        self._seen: list[tuple[Tensor, str]] = []
        self._real = torch.zeros(0, dtype=torch.bool)
        linears = [(name, each) for name, each in layer.named_modules() if isinstance(each, nn.Linear)]
        self._names = [prefix + name for name, _ in linears]
        self._handles = [each.register_forward_pre_hook(self._hook(prefix + name)) for name, each in linears]

    def before(self, real: Tensor) -> None:
        """A step begins; which of its tokens are there."""
        self._real, self._seen = real, []

    def end(self, model: str) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
        """The matrices by the layer that read first, and for every layer whose it shares."""
        for handle in self._handles:
            handle.remove()
        for name in self._names:
            if not self._counts.get(self._owner.get(name, name)):
                raise RosterError(
                    f"no token of the texts reaches {name!r} of {model!r}, so nothing is known about it: give more rows"
                )
        found = {name: each / self._counts[name] for name, each in self._sums.items()}
        return found, {name: self._owner[name] for name in self._names}

    def _hook(self, name: str) -> Any:
        def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = given[0]
            owner = next((each for seen, each in self._seen if seen is x), name)
            self._owner.setdefault(name, owner)
            self._seen.append((x, owner))
            if owner != name:
                return
            x_TI = x.flatten(0, -2).float()
            if len(x_TI) == len(self._real):
                x_TI = x_TI[self._real]
            product = x_TI.T @ x_TI
            self._sums[name] = self._sums[name].add_(product) if name in self._sums else product
            self._counts[name] = self._counts.get(name, 0) + len(x_TI)

        return look
