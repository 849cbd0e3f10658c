"""Diagonal Fisher information of a model's weights, from texts.

Equation: F_j = mean over rows x of E_y [(d log p(y|x) / d theta_j)^2], the gradient of a row's summed log-likelihood.
`labels: sampled` draws each next token y from the model itself behind the row's own tokens, which is the Fisher
information; `labels: data` takes the row's tokens ("empirical Fisher").

One row at a time, with gradients: the model is in memory whole (12 bytes a weight: weights, gradients, sums).
Source: Matena and Raffel 2022, arXiv 2111.09832, who take the expectation over all classes of a classifier.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from roster.header import Spec
from roster.weights.kept import Kept
from roster.weights.source import Checkpoint, Source
from roster.weights.texts import Texts, digest
from roster.weights.whole import check_memory, load_whole, parameter_names

Progress = Callable[[int, int], None]
"""Told of rows done, and of how many there are."""
_RMS = "rms"


class Diagonal:
    """A model's Fisher information as a source, float32, in the shapes and under the names of its weights.

    Args:
        model: whose.
        texts: to learn from.
        file: where it is kept.
        labels: "sampled" or "data".
        normalize: whether values are divided by their root mean square over the model.
        seed: of the sampled labels.
    """

    def __init__(
        self, model: Source, texts: Texts, file: Path, labels: str = "sampled", normalize: bool = True, seed: int = 0
    ) -> None:
        self.name = f"the Fisher information of {model.name}"
        self.model, self.texts, self.labels, self.normalize, self.seed = model, texts, labels, normalize, seed
        parts = ("fisher", model.fingerprint(), digest(texts), labels, seed)
        self._kept = Kept(file, hashlib.sha256(repr(parts).encode()).hexdigest())
        self._parameters = parameter_names(model)
        self._opened: Checkpoint | None = None
        self._factor = 1.0

    @property
    def specs(self) -> Mapping[str, Spec]:
        """Of the tensors that are parameters."""
        return {name: Spec(torch.float32, self.model.specs[name].shape) for name in self._parameters}

    @property
    def memory(self) -> int:
        """Bytes that gathering takes."""
        return 12 * sum(self.model.specs[name].numel for name in set(self._parameters.values()))

    def fingerprint(self) -> str:
        """Of what it is made of."""
        return self._kept.key + str(self.normalize)

    def gather(self, progress: Progress | None = None) -> None:
        """Makes it, or takes up where a killed run stopped; nothing where it is there.

        Raises:
            RosterError: too little memory, or a model that cannot be asked.
        """
        if self._kept.whole() is not None:
            return
        check_memory(self.memory, self.name)
        model = load_whole(self.model)
        sums, done = self._kept.half()
        parameters = dict(model.named_parameters())
        for each in parameters.values():
            each.requires_grad_(True)
        sums = sums or {name: torch.zeros_like(each, requires_grad=False) for name, each in parameters.items()}
        count = len(self.texts.ids_BS)
        for row in range(done, count):
            self._add(model, parameters, sums, row)
            self._kept.save(sums, row + 1)
            if progress is not None:
                progress(row + 1, count)
        numel = sum(each.numel() for each in sums.values())
        square = 0.0
        for each in sums.values():
            square += float(each.div_(count).double().square().sum())
        self._kept.finish(sums, {_RMS: repr((square / numel) ** 0.5)})

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """See `Source.read`."""
        if self._opened is None:
            figures = self._kept.whole()
            assert figures is not None, "gather first"
            self._opened = Checkpoint(self._kept.path, self.name)
            rms = float(figures[_RMS])
            self._factor = 1 / rms if self.normalize and rms > 0 else 1.0
        return self._opened.read(self._parameters[name], start, stop).mul_(self._factor)

    def _add(self, model: Any, parameters: Mapping[str, Tensor], sums: Mapping[str, Tensor], row: int) -> None:
        ids_S = self.texts.ids_BS[row][self.texts.mask_BS[row].bool()]
        with torch.enable_grad():
            logits_SV = model(input_ids=ids_S[None], use_cache=False).logits[0, :-1].float()
            wanted_S = ids_S[1:] if self.labels == "data" else sampled(logits_SV, self.seed, row)
            likelihood = -cross_entropy(logits_SV, wanted_S, reduction="sum")
            found = torch.autograd.grad(likelihood, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                sums[name].addcmul_(gradient, gradient)


def sampled(logits_SV: Tensor, seed: int, row: int) -> Tensor:
    """A next token for each place, drawn from the model's own answer; the same for a row whenever it is drawn."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
    return torch.multinomial(logits_SV.detach().softmax(-1), 1, generator=generator)[:, 0]
