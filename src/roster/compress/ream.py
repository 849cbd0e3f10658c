"""REAM: router-weighted expert activation merging.

The experts with the best REAP scores are centroids. From the best one down, each takes the (at most `group`) unassigned
experts most like it, so that most groups stay single and a few grow; a member's units are put into the centroid's
order, by what they say of sampled tokens and by their weights; means by REAP score. The router keeps the centroids'
rows. Layers are done in turn: later ones are calibrated on what became of earlier ones.

Likeness: mean of the cosine of what two experts say (times their probability, all sampled tokens one after the other)
and of the cosine of their columns of router logits.

Source: Jha et al. 2026, REAM: Merging Improves Pruning of Experts in LLMs, arXiv 2604.04356, read second-hand (a public
fork of REAP's code that implements it). Differences: sampled tokens are up to 512, evenly spread over the calibration
texts; what cannot be grouped within `group` makes larger groups until all are assigned.

Shape legend: N sampled tokens, E experts, D model width, F hidden units of an expert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from roster.compress.align import Matrices, by_activations_and_weights
from roster.compress.dropping import best
from roster.compress.groups import Group, Regrouped
from roster.compress.merging import similarity, weights_of
from roster.compress.method import Regrouping
from roster.compress.mixture import Mixture, read
from roster.compress.seen import Seen
from roster.errors import RosterError


class Ream(Regrouping):
    """See the module.

    Args:
        mixture: to be made smaller.
        to: its size.
        group: experts that a centroid takes at most, unless too few centroids are left for the rest.
    """

    slug = "ream"
    in_turn = True

    def __init__(self, mixture: Mixture, to: str, group: int = 16) -> None:
        super().__init__(mixture, to)
        if group < 1:
            raise RosterError(f"ream: group={group} must be at least 1")
        self.group = group

    def decide(self, seen: Mapping[int, Seen]) -> dict[int, Regrouped]:
        """See `roster.compress.method.Method`."""
        return {layer: self._one(layer, each) for layer, each in seen.items()}

    def _one(self, layer: int, seen: Seen) -> Regrouped:
        experts = range(self.mixture.experts)
        x_ND = seen.sample_ND
        probability_NE = linear(x_ND, read(self.mixture.router(layer)).float()).softmax(-1)
        matrices = [self.mixture.matrices(layer, e) for e in experts]
        middle = [seen.act(linear(x_ND, each["gate"]), linear(x_ND, each["up"])) for each in matrices]
        like_EE = (self._said(matrices, middle, probability_NE) + similarity(seen.logits_TE)) / 2
        saliency_E = seen.saliency_E
        centroids = best(saliency_E, self.kept)
        groups = pseudo_prune(centroids, like_EE, self.group)
        made = tuple(_merged(matrices, middle, each, saliency_E) for each in groups)
        rows_NE = torch.zeros(len(made), len(experts))
        for number, each in enumerate(made):
            rows_NE[number, each.members[0]] = 1.0
        scores = [round(each, 6) for each in saliency_E.tolist()]
        return Regrouped(made, rows_NE, None, {"groups": [list(each.members) for each in made], "scores": scores})

    def _said(self, matrices: Sequence[Matrices], middle: Sequence[Tensor], probability_NE: Tensor) -> Tensor:
        """Cosines of what experts say, gated, all tokens as one vector; one expert's answers at a time per pair."""
        E = len(matrices)
        gram_EE = torch.zeros(E, E, dtype=torch.float64)
        for part in torch.arange(len(probability_NE)).split(64):
            said = [
                linear(own[part], each["down"]) * probability_NE[part, e : e + 1]
                for e, (own, each) in enumerate(zip(middle, matrices, strict=True))
            ]
            flat = torch.stack([each.flatten() for each in said]).double()
            gram_EE += flat @ flat.T
        norm_E = gram_EE.diagonal().sqrt().clamp(min=1e-12)
        return gram_EE / norm_E[:, None] / norm_E


def pseudo_prune(centroids: Sequence[int], like_EE: Tensor, size: int) -> list[list[int]]:
    """Groups, centroids first, in the order of the centroids' numbers.

    Args:
        centroids: best first.
        like_EE: how much alike experts are.
        size: experts that a centroid takes; more, equally for all, where that would leave some over.
    """
    left = [e for e in range(len(like_EE)) if e not in set(centroids)]
    size = max(size, -(-len(left) // len(centroids)))
    groups = {}
    for centroid in centroids:
        taken = sorted(left, key=lambda each: -float(like_EE[centroid, each]))[:size]
        groups[centroid] = [centroid, *taken]
        left = [each for each in left if each not in taken]
    return [groups[each] for each in sorted(groups)]


def _merged(matrices: Sequence[Matrices], middle: Sequence[Tensor], members: list[int], saliency_E: Tensor) -> Group:
    first = members[0]
    orders = [
        by_activations_and_weights(matrices[first], matrices[each], middle[first], middle[each]) for each in members[1:]
    ]
    return Group(tuple(members), weights_of(members, saliency_E), (None, *orders))
