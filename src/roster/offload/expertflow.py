"""ExpertFlow: a small network foretells, from token ids alone, the experts of every layer before the first computes.

It is trained on recorded routes. What it names for a call is read ahead for all layers at once; a layer that turns out
to need others reads those at once, before anything else. Batches are regrouped by what is foretold (`regroup`), so that
sequences that visit the same experts are computed together and a call visits fewer.

Source: He et al., 2024, "ExpertFlow: Optimized Expert Activation and Token Allocation for Efficient
Mixture-of-Experts Inference", arXiv:2410.17954.
Differences: the predictor is a recurrent network over ids instead of a T5, so that it keeps up with decoding; slots
are one pool, in which the layers' shares follow what is foretold.

Shape legend: B sequences, S positions, L layers, E experts, H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from roster.errors import RosterError
from roster.offload.layout import Key
from roster.offload.policies import LRU
from roster.offload.predicting import Moment
from roster.offload.residency import Residency, pooled
from roster.offload.strategy import Geometry, Run, Strategy

if TYPE_CHECKING:
    from roster.offload.traces import Routes


class PathNetwork(nn.Module):
    """`ids [B, S] -> logits [B, S, L, E]`: which experts each token will visit."""

    def __init__(self, vocab: int, layers: int, experts: int, width: int = 64) -> None:
        super().__init__()
        self.layers, self.experts = layers, experts
        self.embed = nn.Embedding(vocab, width)
        self.over_time = nn.GRU(width, width, batch_first=True)
        self.heads = nn.Linear(2 * width, layers * experts)

    def forward(self, ids_BS: Tensor, state_1BH: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The logits, and the state to go on from."""
        x_BSH = self.embed(ids_BS)
        seen_BSH, state_1BH = self.over_time(x_BSH, state_1BH)
        logits = self.heads(torch.cat([x_BSH, seen_BSH], dim=-1))
        return logits.unflatten(-1, (self.layers, self.experts)), state_1BH


def train_network(routes: Routes, *, passes: int = 20, width: int = 64, seed: int = 0) -> PathNetwork:
    """A network trained on recorded routes: binary cross-entropy against the experts that were visited.

    Raises:
        RosterError: the routes do not say how many token ids there are.
    """
    if not routes.geometry.vocab:
        raise RosterError("these routes do not say how many token ids their model has: record them anew")
    L, E = len(routes.geometry.experts), max(routes.geometry.experts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PathNetwork(routes.geometry.vocab, L, E, width)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        for _ in range(passes):
            for sequence in torch.randperm(routes.sequences).split(8):
                ids_BS, visited_BSLE, keep_BS = _batch(routes, sequence.tolist(), E)
                logits, _ = network(ids_BS)
                loss_BS = functional.binary_cross_entropy_with_logits(logits, visited_BSLE, reduction="none").mean(
                    (2, 3)
                )
                optimizer.zero_grad()
                (loss_BS * keep_BS).sum().div(keep_BS.sum()).backward()
                optimizer.step()
    return network.eval().requires_grad_(False)


def _batch(routes: Routes, sequences: Sequence[int], E: int) -> tuple[Tensor, Tensor, Tensor]:
    spans = [slice(int(routes.starts_S[each]), int(routes.starts_S[each + 1])) for each in sequences]
    ids = [torch.from_numpy(routes.ids_N[span].astype("int64")) for span in spans]
    visited = []
    for span in spans:
        chosen_SLK = torch.from_numpy(routes.chosen_NLK[span].astype("int64"))
        one_hot = functional.one_hot(torch.where(chosen_SLK < 0, E, chosen_SLK), E + 1)[..., :E]
        visited.append(one_hot.sum(2).clamp(max=1).float())
    keep = [torch.ones(len(each)) for each in ids]
    pad = nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True), pad(visited, batch_first=True), pad(keep, batch_first=True)


class PathPredictor:
    """Names experts of all layers at the start of a call.

    Args:
        network: trained on the model's routes.
        k: experts that a token visits.
        extra: named for each token beyond K.
    """

    def __init__(self, network: PathNetwork, k: int, extra: int = 0) -> None:
        self._network, self._per_token = network, k + extra
        self._state: Tensor | None = None

    @torch.no_grad()
    def start(self, ids_BS: Sequence[Sequence[int]], new: bool) -> list[Key]:
        """In the order of use: layer by layer, the likeliest first."""
        if not ids_BS:
            return []
        ids = torch.tensor(ids_BS)
        if new or self._state is None or self._state.shape[1] != len(ids):
            self._state = None
        logits, self._state = self._network(ids, self._state)
        best = logits.topk(min(self._per_token, logits.shape[-1]), dim=-1)
        votes_LE = torch.zeros(logits.shape[2:])
        at = best.indices.flatten(0, 1).movedim(1, 0).flatten(1)
        votes_LE.scatter_add_(1, at, best.values.sigmoid().flatten(0, 1).movedim(1, 0).flatten(1))
        ranked_LE = votes_LE.argsort(dim=1, descending=True, stable=True)
        counts_L = (votes_LE > 0).sum(1).tolist()
        order = ranked_LE.tolist()
        return [(layer, expert) for layer, count in enumerate(counts_L) for expert in order[layer][:count]]

    def after(self, moment: Moment) -> list[Key]:
        """All was said at the start."""
        return []


def expertflow(passes: int, extra: int, seed: int) -> Strategy:
    """See the module; it needs recorded routes to train on."""

    def begin(geometry: Geometry, slots: int, routes: Routes | None) -> Run:
        if routes is None:
            raise RosterError("expertflow learns from recorded routes: record some with `roster trace` and give them")
        network = train_network(routes, passes=passes, seed=seed)
        return Run(
            Residency(pooled(slots, geometry.experts), lambda _: LRU()), PathPredictor(network, geometry.k, extra)
        )

    return begin


def regroup(paths_BF: Tensor, groups: int = 2, rounds: int = 10, seed: int = 0) -> list[list[int]]:
    """Splits sequences into groups of equal size (up to one) that visit similar experts: k-means on Hamming distances.

    Args:
        paths_BF: for each sequence and each expert of each layer whether it is visited, 0 or 1.
        groups: how many.
        rounds: of assignment and update.
        seed: of the first centres.

    Returns:
        The numbers of the sequences of each group.
    """
    paths_BF = paths_BF.float()
    B = len(paths_BF)
    if not 1 <= groups <= B:
        raise RosterError(f"{B} sequences cannot be split into {groups} groups")
    start = torch.randperm(B, generator=torch.Generator().manual_seed(seed))[:1]
    centres = [paths_BF[int(start)]]
    while len(centres) < groups:  # each next one is the furthest from those before
        nearest_B = torch.stack([(paths_BF - each).abs().sum(1) for each in centres]).amin(0)
        centres.append(paths_BF[int(nearest_B.argmax())])
    centre_GF = torch.stack(centres)
    found: list[list[int]] = []
    for _ in range(rounds):
        distance_BG = torch.cdist(paths_BF, centre_GF, p=1)
        found = [[] for _ in range(groups)]
        room = [B // groups + (group < B % groups) for group in range(groups)]
        for flat in distance_BG.flatten().argsort(stable=True).tolist():
            sequence, group = divmod(flat, groups)
            if len(found[group]) < room[group] and not any(sequence in each for each in found):
                found[group].append(sequence)
        new_GF = torch.stack([paths_BF[each].mean(0).round() for each in found])
        if torch.equal(new_GF, centre_GF):
            break
        centre_GF = new_GF
    return [sorted(each) for each in found]
