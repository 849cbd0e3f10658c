"""Nearness: a head that reads each prompt once and says how near it is to some fixed vectors: one per expert, or
centres of clusters of prompts. Nothing in it trains.

A prompt's vector is the mean of the base's hidden states behind one block, over its last turn (`roster.auto.features`).
Such means share a large common part, so the mean of the fixed vectors is taken off first.

Shape legend: B batch rows, S tokens, D width, N vectors, E experts, C clusters, H tokens of a header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.adapters.mixing import Surroundings
from roster.auto.features import POOLINGS, features_of, turn_of
from roster.auto.turns import NO_TOKEN, header_of
from roster.context import Context
from roster.errors import RosterError
from roster.prompts import Prompt
from roster.routed.one_block import OneBlock
from roster.routed.taps import blocks_of

Of = Literal["experts", "clusters"]
_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda near_BN: near_BN,
    "share": lambda near_BN: near_BN.softmax(1),
    "nearest": lambda near_BN: F.one_hot(near_BN.argmax(1), near_BN.shape[1]).to(near_BN.dtype),
}


class Nearness(OneBlock):
    """Decides [B, 2, N]: every vector, and its weight.

    Args:
        width: D.
        of: what the vectors are of: "experts", or "clusters".
        weigh: a vector's weight: its "cosine", its "share" in a softmax over the cosines times `scale`, or one for the
            "nearest" and zero for all others.
        scale: multiplies the cosines.
        layer: behind which block prompts are read, counted from 1; None for the last.
    """

    center_D: Tensor
    header_H: Tensor

    def __init__(self, width: int, of: Of, weigh: str, scale: float = 1.0, layer: int | None = None):
        super().__init__()
        self.weigh, self.scale, self.layer = weigh, scale, layer
        self.name = {"experts": "vectors_ED", "clusters": "vectors_CD"}[of]
        self.sized_by_file = frozenset({self.name, "header_H"})
        self.register_buffer(self.name, torch.zeros(0, width))
        self.register_buffer("center_D", torch.zeros(width))
        self.register_buffer("header_H", torch.full((1,), NO_TOKEN, dtype=torch.long))

    @property
    def vectors_ND(self) -> Tensor:
        """What prompts are compared with, less the centre."""
        return self.get_buffer(self.name)

    def features(self, hidden: Mapping[int, Tensor], context: Context) -> Tensor:
        """[B, D] from the hidden states [B, S, D] of a call whose prompts are to be decided on."""
        (hidden_BSD,) = hidden.values()
        turn_BS = turn_of(context.input_ids_BS, context.prompt_mask(hidden_BSD.device), self.header_H)
        return POOLINGS["mean"](hidden_BSD, turn_BS).to(self.center_D.device)

    def cosines(self, features_BD: Tensor) -> Tensor:
        """To every vector, [B, N]."""
        near_BD = F.normalize(features_BD - self.center_D, dim=1)
        return near_BD @ F.normalize(self.vectors_ND, dim=1).T

    def forward(self, features_BD: Tensor) -> Tensor:
        """The decision [B, 2, N]."""
        weight_BN = _WEIGHTS[self.weigh](self.scale * self.cosines(features_BD))
        index_BN = torch.arange(weight_BN.shape[1], device=weight_BN.device).expand_as(weight_BN)
        return torch.stack([index_BN.to(weight_BN), weight_BN], dim=1)

    @torch.no_grad()
    def learn(self, vectors_ND: Tensor) -> None:
        """Takes over the fixed vectors."""
        self.center_D.copy_(vectors_ND.mean(0))
        self.register_buffer(self.name, vectors_ND - self.center_D)

    def read(self, surroundings: Surroundings, prompts: Sequence[Prompt], needed_by: str) -> Tensor:
        """Vectors of prompts [N, D], as `features` will make them; takes over where and how they are read.

        Raises:
            RosterError: no tokenizer, or no such block.
        """
        rendering = surroundings.rendering
        if rendering is None:
            raise RosterError(f"{needed_by} reads example prompts and needs the base's tokenizer: pass tokenizer=")
        self.choose(self.layer, len(blocks_of(surroundings.model)), needed_by)
        self.register_buffer("header_H", torch.tensor(header_of(rendering) or [NO_TOKEN], dtype=torch.long))
        place = (*self.blocks, "mean")
        features_NPD = features_of(surroundings.model, rendering, self.header_H, prompts, [place])
        return features_NPD[:, 0].float()

    def learn_experts(self, surroundings: Surroundings, needed_by: str) -> None:
        """One vector per expert: the mean over the example prompts on its card."""
        library: Any = surroundings.library
        examples = [library[name].card.examples for name in library.names]
        rows_ND = self.read(surroundings, [prompt for each in examples for prompt in each], needed_by)
        self.learn(torch.stack([rows.mean(0) for rows in rows_ND.split([len(each) for each in examples])]))

    def learn_clusters(self, surroundings: Surroundings, clusters: int, needed_by: str, seed: int = 0) -> None:
        """Centres of the example prompts of all cards by k-means, on vectors of length one; at most `clusters`."""
        from sklearn.cluster import KMeans  # recipes are listed without scikit-learn

        library: Any = surroundings.library
        prompts = [prompt for name in library.names for prompt in library[name].card.examples]
        rows_ND = self.read(surroundings, prompts, needed_by)
        center_D = rows_ND.mean(0)
        unit_ND = F.normalize(rows_ND - center_D, dim=1)
        distinct = len(unit_ND.unique(dim=0))
        found = KMeans(n_clusters=min(clusters, distinct), n_init=10, random_state=seed).fit(unit_ND.numpy())
        centers_CD = torch.from_numpy(found.cluster_centers_).to(rows_ND)
        # The nearest centre is the one with the highest cosine, once centres have length one.
        self.center_D.copy_(center_D)
        self.register_buffer(self.name, F.normalize(centers_CD, dim=1))
