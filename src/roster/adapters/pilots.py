"""Pilots: a head that knows each expert by the embeddings of a few typical queries, and gives a prompt to the expert
whose pilot is the most similar.

An embedding is the mean over all tokens of the base's hidden states behind one block, as sentence encoders pool.

Shape legend: B batch rows, S tokens, D width, N pilots or queries, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.adapters.mixing import Surroundings
from roster.context import Context
from roster.errors import RosterError
from roster.prompts import Prompt
from roster.routed.one_block import OneBlock
from roster.routed.taps import blocks_of, read, tapped

_BATCH = 16


class Pilots(OneBlock):
    """Decides [B, 2, 1]: the one expert of each row, with weight one.

    Args:
        width: D.
        num_experts: E.
        over: an expert's similarity is that of its best pilot ("max") or the mean over its pilots ("mean").
        similarity: "dot" product of embeddings, or "cosine".
        layer: behind which block prompts are read, counted from 1; None for the last.
    """

    pilots_ND: Tensor
    expert_N: Tensor
    sized_by_file = frozenset({"pilots_ND", "expert_N"})

    def __init__(
        self,
        width: int,
        num_experts: int,
        over: Literal["max", "mean"] = "max",
        similarity: Literal["dot", "cosine"] = "dot",
        layer: int | None = None,
    ):
        super().__init__()
        if over not in ("max", "mean") or similarity not in ("dot", "cosine"):
            raise RosterError(
                f"pilots: over={over!r} must be 'max' or 'mean', similarity={similarity!r} 'dot' or 'cosine'"
            )
        self.num_experts, self.over, self.similarity, self.layer = num_experts, over, similarity, layer
        self.register_buffer("pilots_ND", torch.zeros(0, width))
        self.register_buffer("expert_N", torch.zeros(0, dtype=torch.long))

    def features(self, hidden: Mapping[int, Tensor], context: Context) -> Tensor:
        """[B, D] from the hidden states [B, S, D] of a call whose prompts are to be decided on."""
        (hidden_BSD,) = hidden.values()
        return _pooled(hidden_BSD, context.prompt_mask(hidden_BSD.device)).to(self.pilots_ND.device)

    def scores(self, features_BD: Tensor) -> Tensor:
        """Similarity to every expert, [B, E]; minus infinity for one without pilots."""
        pilots_ND = self.pilots_ND
        if self.similarity == "cosine":
            features_BD, pilots_ND = F.normalize(features_BD, dim=1), F.normalize(pilots_ND, dim=1)
        near_BN = features_BD @ pilots_ND.T
        at_BN = self.expert_N.expand_as(near_BN)
        empty_BE = near_BN.new_full((len(near_BN), self.num_experts), -torch.inf)
        reduce = {"max": "amax", "mean": "mean"}[self.over]
        return empty_BE.scatter_reduce(1, at_BN, near_BN, reduce, include_self=False)

    def forward(self, features_BD: Tensor) -> Tensor:
        """The decision [B, 2, 1]."""
        best_B1 = self.scores(features_BD).argmax(1, keepdim=True)
        return torch.stack([best_B1.to(features_BD), torch.ones_like(best_B1, dtype=features_BD.dtype)], dim=1)

    @torch.no_grad()
    def learn(
        self, features_ND: Tensor, best: Sequence[int], groups: Sequence[str], per_group: int = 1, seed: int = 0
    ) -> None:
        """Takes over pilots: for the queries of one group that one expert serves best, their centres by k-means.

        Args:
            features_ND: embeddings of queries by the base.
            best: the expert that serves each query best.
            groups: the data set of each query.
            per_group: pilots per pair of group and expert, at most.
            seed: of k-means.
        """
        from sklearn.cluster import KMeans  # recipes are listed without scikit-learn

        pairs = list(zip(groups, best, strict=True))
        pilots, owners = [], []
        for group, expert in dict.fromkeys(pairs):
            rows_ND = features_ND[[pair == (group, expert) for pair in pairs]].float().cpu()
            count = min(per_group, len(rows_ND.unique(dim=0)))
            centres_ND = rows_ND.mean(0, keepdim=True)
            if count > 1:
                found = KMeans(n_clusters=count, n_init=10, random_state=seed).fit(rows_ND.numpy())
                centres_ND = torch.from_numpy(found.cluster_centers_).to(rows_ND)
            pilots.append(centres_ND)
            owners += [expert] * count
        device = self.pilots_ND.device
        self.register_buffer("pilots_ND", torch.cat(pilots).to(device))
        self.register_buffer("expert_N", torch.tensor(owners, device=device))

    def learn_examples(self, surroundings: Surroundings, per_expert: int, needed_by: str) -> None:
        """Pilots from the example prompts on the experts' cards.

        Raises:
            RosterError: no tokenizer, or no such block.
        """
        rendering = surroundings.rendering
        if rendering is None:
            raise RosterError(f"{needed_by} reads example prompts and needs the base's tokenizer: pass tokenizer=")
        self.choose(self.layer, len(blocks_of(surroundings.model)), needed_by)
        library: Any = surroundings.library
        told = [(e, prompt) for e, name in enumerate(library.names) for prompt in library[name].card.examples]
        ids = [rendering.ids(prompt) for _, prompt in told]
        rows_ND = _embedded(surroundings.model, ids, self.blocks[0])
        best = [expert for expert, _ in told]
        self.learn(rows_ND, best, [str(expert) for expert in best], per_expert)


def learn_pilots(
    model: Any, queries: Sequence[Prompt], groups: Sequence[str], quality_NE: Tensor, per_group: int = 1
) -> None:
    """Pilots by measurement: each query stands for the expert that served it best.

    Args:
        model: a mixture of the recipe `routerretriever`.
        queries: of the training sets.
        groups: the data set of each.
        quality_NE: what every expert made of each query, `ndcg` for example; the larger the better.
        per_group: pilots per pair of data set and best expert, at most.

    Raises:
        RosterError: a mixture that has no pilots, or numbers for other queries or experts.
    """
    head = model.roster.head
    if not isinstance(head, Pilots):
        raise RosterError(f"recipe {model.roster.recipe!r} has no pilots (routerretriever has)")
    wanted = [len(queries), head.num_experts]
    if list(quality_NE.shape) != wanted or len(groups) != len(queries):
        raise RosterError(
            f"qualities must be {wanted}, queries by experts, not {list(quality_NE.shape)}, and each query "
            "must have a group"
        )
    ids = [model.roster.rendering.ids(query) for query in queries]
    with model.roster.slot.use(Context(1, 1, off=True)):  # the base alone
        rows_ND = _embedded(model, ids, head.blocks[0])
    head.learn(rows_ND, quality_NE.argmax(1).tolist(), groups, per_group)


def ndcg(scores_NX: Tensor, relevance_NX: Tensor, k: int = 10) -> Tensor:
    """Normalised discounted cumulative gain at k of each query, [N]; zero where nothing is relevant.

    Args:
        scores_NX: similarity of each query to each document.
        relevance_NX: the gain of each, 0 for what is not relevant.
        k: documents that count.
    """
    k = min(k, scores_NX.shape[1])
    discount_k = torch.arange(2, k + 2, device=scores_NX.device).log2().reciprocal()
    found_N = (relevance_NX.float().gather(1, scores_NX.topk(k, dim=1).indices) * discount_k).sum(1)
    best_N = (relevance_NX.float().topk(k, dim=1).values * discount_k).sum(1)
    return torch.where(best_N > 0, found_N / best_N.clamp_min(1e-12), 0.0)


def _pooled(hidden_BSD: Tensor, mask_BS: Tensor) -> Tensor:
    weight_BS1 = mask_BS.to(hidden_BSD.device)[..., None].float()
    return (hidden_BSD.float() * weight_BS1).sum(1) / weight_BS1.sum(1).clamp_min(1.0)


def _embedded(model: Any, ids: Sequence[Sequence[int]], block: int) -> Tensor:
    """[N, D] of rows of tokens by the plain base; of rows longer than its context, the end."""
    limit = getattr(model.config, "max_position_embeddings", None)
    device, found = next(model.parameters()).device, []
    with tapped(model) as wish:
        for start in range(0, len(ids), _BATCH):
            rows = [list(each)[-limit:] if limit else list(each) for each in ids[start : start + _BATCH]]
            length = max(map(len, rows))
            ids_BS = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
            mask_BS = torch.tensor([[at < len(row) for at in range(length)] for row in rows], device=device)
            taken: dict[int, Tensor] = {}
            read(model, wish, {"input_ids": ids_BS, "attention_mask": mask_BS.long()}, {block}, taken.__setitem__)
            found.append(_pooled(taken[block], mask_BS))
    return torch.cat(found)
