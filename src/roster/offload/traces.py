"""Recorded routes: which experts each token visited in each layer, on disk beside the checkpoint or anywhere.

A file of them knows the model that it was recorded from by the values of its gates, so that nothing is simulated,
placed or learned for another one. Beside the choices it holds what the next layer's gate said of this layer's input,
for predictors that would ask it.

Shape legend: N tokens of all sequences, S sequences, L layers with experts, K chosen per token, A = K + what was asked
beyond, E experts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from roster.errors import RosterError
from roster.files import write_whole
from roster.offload.strategy import Geometry

FORMAT = "roster-routes-1"
NOBODY = -1

Shorts = NDArray[np.int16]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Routes:
    """Routes of some sequences, one after the other.

    Attributes:
        chosen_NLK: experts by rank; `NOBODY` where there is none.
        ahead_NLA: what layer l's gate said of the input of layer l - 1, by rank; `NOBODY` in the first layer.
        ids_N: token ids.
        starts_S: where each sequence begins, and N at the end.
        prompts_S: how many of a sequence's tokens come in one call; the others one by one.
        geometry: of the model.
        model: its fingerprint.
    """

    chosen_NLK: Shorts
    ahead_NLA: Shorts
    ids_N: Ints
    starts_S: Ints
    prompts_S: Ints
    geometry: Geometry
    model: str

    @property
    def sequences(self) -> int:
        """How many there are."""
        return len(self.prompts_S)

    @property
    def decisions(self) -> int:
        """Choices of one expert for one token in one layer."""
        return int((self.chosen_NLK != NOBODY).sum())

    def matrices(self) -> Iterator[NDArray[np.int64]]:
        """Of each sequence the tokens of every expert, [L, E] (E: the most of any layer)."""
        L, E = len(self.geometry.experts), max(self.geometry.experts)
        offset_L1 = (np.arange(L) * E)[:, None]
        for first, last in zip(self.starts_S[:-1], self.starts_S[1:], strict=True):
            chosen_NLK = self.chosen_NLK[first:last].astype(np.int64)
            flat = (chosen_NLK + offset_L1)[chosen_NLK != NOBODY]
            yield np.bincount(flat, minlength=L * E).reshape(L, E)

    def part(self, sequences: NDArray[np.integer[Any]] | list[int]) -> Routes:
        """Some of the sequences, in the order given.

        Raises:
            RosterError: none is left.
        """
        if not len(sequences):
            raise RosterError("no sequence of the recorded routes is left: record more of them")
        spans = [np.arange(self.starts_S[each], self.starts_S[each + 1]) for each in sequences]
        rows = np.concatenate(spans)
        starts = np.cumsum([0, *map(len, spans)]).astype(np.int32)
        kept = self.chosen_NLK[rows], self.ahead_NLA[rows], self.ids_N[rows]
        return Routes(*kept, starts, self.prompts_S[list(sequences)], self.geometry, self.model)

    def split(self, held_out: float = 0.4, seed: int = 0) -> tuple[Routes, Routes]:
        """(some sequences, the others): to learn from, and to be judged by."""
        order = np.random.default_rng(seed).permutation(self.sequences)
        count = min(max(1, round(held_out * len(order))), len(order) - 1)
        return self.part(np.sort(order[count:])), self.part(np.sort(order[:count]))

    def write(self, path: Path) -> None:
        """A safetensors file, whole or not at all."""
        tensors = {name: getattr(self, name) for name in ("chosen_NLK", "ahead_NLA", "ids_N", "starts_S", "prompts_S")}
        about = {"experts": list(self.geometry.experts), "k": self.geometry.k, "vocab": self.geometry.vocab}
        write_whole(path, save(tensors, {"format": FORMAT, "model": self.model, "geometry": json.dumps(about)}))


def read_routes(path: Path) -> Routes:
    """What `Routes.write` wrote.

    Raises:
        RosterError: no such file, one of another kind, or one whose contents do not fit together.
    """
    if not path.is_file():
        raise RosterError(f"there are no recorded routes at {str(path)!r}; `roster trace` makes some")
    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise RosterError(f"{str(path)!r} holds no routes that this roster reads; `roster trace` makes some")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        geometry = json.loads(about["geometry"])
        known = Geometry(tuple(geometry["experts"]), int(geometry["k"]), int(geometry["vocab"]))
        routes = Routes(**tensors, geometry=known, model=about["model"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, RosterError):
            raise
        raise RosterError(f"{str(path)!r} cannot be read: {error}") from None
    _check(routes, str(path))
    return routes


def _check(routes: Routes, where: str) -> None:
    N, L = routes.chosen_NLK.shape[:2]
    experts_L = np.array(routes.geometry.experts)
    fits = (
        len(experts_L) == L
        and routes.ahead_NLA.shape[:2] == (N, L)
        and len(routes.ids_N) == N == int(routes.starts_S[-1])
        and len(routes.starts_S) == len(routes.prompts_S) + 1
        and bool((np.diff(routes.starts_S) > 0).all())
        and all(
            bool(((each >= NOBODY) & (each < experts_L[:, None])).all())
            for each in (routes.chosen_NLK, routes.ahead_NLA)
        )
    )
    if not fits:
        raise RosterError(f"{where!r} is damaged: its parts do not fit together")


def check_geometry(routes: Routes, geometry: Geometry) -> None:
    """Raises RosterError where routes are of a model with other numbers of layers or experts."""
    if routes.geometry.experts != geometry.experts:
        raise RosterError(
            f"these routes were recorded from another model: its layers have {list(routes.geometry.experts)} experts, "
            f"this one's {list(geometry.experts)}"
        )
