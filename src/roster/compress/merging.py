"""Merging experts instead of dropping them: groups by what the router says of the experts, and means of aligned ones.

Shape legend: T tokens, E experts, F hidden units of an expert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from roster.compress.align import by_weights
from roster.compress.dropping import best
from roster.compress.groups import Group, Regrouped
from roster.compress.method import Regrouping
from roster.compress.mixture import Mixture
from roster.compress.seen import Seen
from roster.errors import RosterError, nearest

BUDGETS, FORMS, ROWS = ("uniform", "global"), ("smaller", "copies"), ("mean", "dominant")


class McSmoe(Regrouping):
    """MC-SMoE's merging ("M-SMoE"), and its low-rank plus sparse step done in one shot.

    f_e is how many calibration tokens expert e was given. The most used experts of a layer are dominant; each other
    one joins the dominant one whose column of router logits is most like its own (cosine over tokens), is put into its
    order of hidden units, and W = sum f_i W_i / sum f_i over a group.

    Source: Li et al. 2024, Merge, Then Compress, arXiv 2310.01334. Differences: experts are aligned to their dominant
    one, not to expert 0, and only members of a group are; true smaller mixtures, whose router row is the group's mean
    by f (or the dominant's), where the authors keep all rows and let members share one tensor, which no stock loader
    does (`form=copies` writes that, copy by copy: their function, no smaller); no distillation afterwards; low rank
    plus sparse in one shot, and written as dense matrices.

    Args:
        mixture: to be made smaller.
        to: its size.
        budget: "uniform": equally many in each layer. "global": the authors', as many where experts are used more
            evenly; layers then differ, which only `form=copies` can hold.
        form: "smaller" or "copies".
        rows: of the router, "mean" or "dominant".
        rank: of low rank plus sparse; 0 leaves matrices whole.
        columns: share of columns that the sparse part keeps.
        store: "dense"; "factored" is refused, with the reason.
    """

    slug = "mc-smoe"

    def __init__(
        self,
        mixture: Mixture,
        to: str,
        budget: str = "uniform",
        form: str = "smaller",
        rows: str = "mean",
        rank: int = 0,
        columns: float = 0.1,
        store: str = "dense",
    ) -> None:
        super().__init__(mixture, to)
        for name, value, known in (("budget", budget, BUDGETS), ("form", form, FORMS), ("rows", rows, ROWS)):
            if value not in known:
                raise RosterError(f"{self.slug}: {name}={value!r}: {nearest(value, known)}")
        if budget == "global" and form == "smaller":
            raise RosterError(
                "mc-smoe: with budget=global layers differ in how many experts they have, which no stock loader "
                "holds; nearest: budget=uniform (smaller), or form=copies (the same function, every member written "
                "out, as large as before)"
            )
        if store != "dense":
            raise RosterError(
                f"mc-smoe: store={store!r}: factors of low rank plus sparse are no tensors that a stock loader knows; "
                "nearest: store=dense, the same values multiplied out, as large as the merged mixture"
            )
        if not 0 <= rank <= min(mixture.width, mixture.hidden) or not 0 <= columns <= 1:
            raise RosterError(f"mc-smoe: rank={rank}, columns={columns}: more than a matrix has")
        self.budget, self.form, self.rows = budget, form, rows
        self.low_rank = (rank, columns) if rank else None

    def decide(self, seen: Mapping[int, Seen]) -> dict[int, Regrouped]:
        """See `roster.compress.method.Method`."""
        counts = {layer: each.count_E for layer, each in seen.items()}
        kept = dict.fromkeys(seen, self.kept) if self.budget == "uniform" else global_budget(counts, self.kept)
        return {layer: self._one(layer, each, best(each.count_E, kept[layer])) for layer, each in seen.items()}

    def _one(self, layer: int, seen: Seen, dominant: Sequence[int]) -> Regrouped:
        groups = join(dominant, similarity(seen.logits_TE))
        made = [merge(self.mixture, layer, each, seen.count_E) for each in groups]
        rows_NE = torch.stack([_row(each, len(seen.count_E), self.rows) for each in made])
        figures = {"groups": [list(each.members) for each in made], "tokens": seen.count_E.long().tolist()}
        if self.form == "copies":
            home = {member: group for group in made for member in group.members}
            return Regrouped(tuple(home[e] for e in range(len(home))), torch.eye(len(home)), self.low_rank, figures)
        return Regrouped(tuple(made), rows_NE, self.low_rank, figures)


class Uncurl(Regrouping):
    """UNCURL: clusters of experts that a task's router logits treat alike, each merged into one.

    Per layer: cosine distances of the experts' columns of router logits on the task's texts, average linkage, so many
    clusters; inside one the units of all are put into the order of its most used expert; means by use, of matrices and
    of router rows.

    Source: Sarkar et al. 2024, Revisiting SMoE Language Models by Evaluating Inefficiencies with Task Specific Expert
    Pruning, arXiv 2409.01483. No code of the authors was found; the linkage and the weights are roster's reading. The
    calibration texts must be the task's. No training afterwards.
    """

    slug = "uncurl"

    def decide(self, seen: Mapping[int, Seen]) -> dict[int, Regrouped]:
        """See `roster.compress.method.Method`."""
        return {layer: self._one(layer, each) for layer, each in seen.items()}

    def _one(self, layer: int, seen: Seen) -> Regrouped:
        from scipy.cluster.hierarchy import fcluster, linkage  # type: ignore[import-untyped]
        from scipy.spatial.distance import squareform  # type: ignore[import-untyped]

        apart_EE = (1 - similarity(seen.logits_TE)).clamp(min=0).fill_diagonal_(0)
        tree = linkage(squareform(apart_EE.numpy(), checks=False), method="average")
        label_E = fcluster(tree, self.kept, criterion="maxclust")
        clusters = [[e for e in range(len(label_E)) if label_E[e] == each] for each in dict.fromkeys(label_E)]
        clusters = _split(clusters, self.kept, seen.count_E)
        made = [merge(self.mixture, layer, _used_first(each, seen.count_E), seen.count_E) for each in clusters]
        rows_NE = torch.stack([_row(each, len(label_E), "mean") for each in made])
        figures = {"groups": [list(each.members) for each in made], "tokens": seen.count_E.long().tolist()}
        return Regrouped(tuple(made), rows_NE, None, figures)


def similarity(logits_TE: Tensor) -> Tensor:
    """Cosines of the experts' columns, [E, E], float64."""
    unit_TE = torch.nn.functional.normalize(logits_TE.double(), dim=0)
    return unit_TE.T @ unit_TE


def join(dominant: Sequence[int], similar_EE: Tensor) -> list[list[int]]:
    """Groups, the dominant expert first in each: every other one joins the dominant one that it is most like."""
    groups = {each: [each] for each in dominant}
    for expert in range(len(similar_EE)):
        if expert not in groups:
            nearest_one = max(dominant, key=lambda each: float(similar_EE[expert, each]))
            groups[nearest_one].append(expert)
    return [groups[each] for each in sorted(groups)]


def merge(mixture: Mixture, layer: int, members: Sequence[int], weight_E: Tensor) -> Group:
    """A group whose members stand in the first one's order of hidden units; equal weights where all are 0."""
    first = mixture.matrices(layer, members[0]) if len(members) > 1 else {}
    orders = [by_weights(first, mixture.matrices(layer, each)) for each in members[1:]]
    return Group(tuple(members), weights_of(members, weight_E), (None, *orders))


def weights_of(members: Sequence[int], weight_E: Tensor) -> tuple[float, ...]:
    """Of each member; equal ones where all are 0."""
    weights = [float(weight_E[each]) for each in members]
    return tuple(weights) if sum(weights) > 0 else (1.0,) * len(members)


def global_budget(count: Mapping[int, Tensor], mean: int) -> dict[int, int]:
    """How many experts each layer keeps when the best of all layers stay: shares of use, each layer's best set to 1.

    Returns:
        By layer; together `mean` times the layers, at least one each.
    """
    share = {}
    for layer, count_E in count.items():
        share[layer] = count_E / count_E.sum().clamp(min=1)
        share[layer][count_E.argmax()] = 1.0
    ranked = sorted(((-float(x), layer, e) for layer, each in share.items() for e, x in enumerate(each)))
    chosen = [layer for _, layer, _ in ranked[: mean * len(share)]]
    return {layer: chosen.count(layer) for layer in share}


def _used_first(cluster: Sequence[int], count_E: Tensor) -> list[int]:
    return sorted(cluster, key=lambda each: -float(count_E[each]))


def _split(clusters: list[list[int]], wanted: int, count_E: Tensor) -> list[list[int]]:
    """So many clusters: where ties of distances left fewer, the least used of the largest goes alone."""
    while len(clusters) < wanted:
        largest = max(clusters, key=len)
        largest.remove(alone := min(largest, key=lambda each: float(count_E[each])))
        clusters.append([alone])
    return clusters


def _row(group: Group, experts: int, rows: str) -> Tensor:
    row_E = torch.zeros(experts)
    if rows == "dominant":
        row_E[group.members[0]] = 1.0
        return row_E
    weights: Any = torch.tensor(group.weights)
    row_E[list(group.members)] = (weights / weights.sum()).float()
    return row_E
