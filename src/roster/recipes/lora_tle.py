"""Token-level adaptation: at every token, experts weigh in by how much the text so far resembles their data.

Equation: q_t = mean embedding of tokens 1..t; w = softmax(scale * cos(q_t - m, d_e - m)), with d_e the mean embedding
    of expert e's example prompts and m the mean of all d_e; one set of weights for all layers.
Shapes: d is [E, D].
Trains: nothing; the examples are those on the experts' cards.
Siblings: MiLoRA decides once per prompt, Arrow per token and layer.
Source: Belofsky, 2023, "Token-Level Adaptation of LoRA Adapters for Downstream Task Generalization",
    arXiv:2311.10847.
Differences: the source embeds with a sentence encoder of its own and may recompute only at every other token. Here the
    base itself embeds, at every token: its token embeddings are averaged, or with `embed="hidden"` its last hidden
    states, which cost a second pass and tell tasks apart far better (docs/results/mix.md). Such means share a large
    common part, so the mean of the experts' vectors is taken off first. `window` limits the mean to the last
    tokens, so that a text that changes its topic is followed sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.context import Context
from roster.errors import RosterError
from roster.prompts import padded
from roster.recipes.recipe import Recipe
from roster.router import Router
from roster.score import Cosine
from roster.select import All

_TOGETHER = 16
"""Examples that are read in one pass."""


class PrefixMean(nn.Module):
    """The mean embedding of the tokens so far, less a fixed centre.

    Shape legend: B batch rows, S tokens of this call, L tokens so far, D width.
    """

    center_D: Tensor

    def __init__(self, width: int, window: int | None):
        super().__init__()
        self.window = window
        self.register_buffer("center_D", torch.zeros(width))

    def forward(self, hidden_BSD: Tensor, context: Context) -> Tensor:
        """[B, S, D]; a token's mean covers itself and what came before it."""
        x_BSD = hidden_BSD.float()
        mask_BS1 = torch.ones_like(x_BSD[..., :1])
        if context.mask_BS is not None:
            mask_BS1 = context.mask_BS[..., None].to(x_BSD)
        # The count rides along as one more column, so that padding and empty cache slots count as nothing.
        row_BSN = torch.cat([x_BSD * mask_BS1, mask_BS1], dim=-1)
        sum_BSN = self._so_far(row_BSN, context)
        return sum_BSN[..., :-1] / sum_BSN[..., -1:].clamp_min(1.0) - self.center_D

    def _so_far(self, row_BSN: Tensor, context: Context) -> Tensor:
        """Sums over each token's prefix (or its window of it)."""
        S = row_BSN.shape[1]
        if context.history is None:
            all_BLN: Tensor = row_BSN
            before: int | Tensor = 0
        else:
            before = context.history.length
            all_BLN = context.history.append("lora-tle", row_BSN)
        sum_BLN = all_BLN.cumsum(1)
        end_S = torch.arange(S, device=row_BSN.device) + before
        sum_BSN = sum_BLN[:, end_S]
        if self.window is not None:
            start_S = end_S - self.window
            earlier_BSN = sum_BLN[:, start_S.clamp_min(0)]
            sum_BSN = sum_BSN - earlier_BSN * (start_S >= 0)[None, :, None]
        return sum_BSN


def lora_tle(scale: float = 10.0, window: int | None = None, embed: Literal["tokens", "hidden"] = "tokens") -> Mixing:
    """Token-level adaptation.

    Args:
        scale: inverse temperature of the softmax over cosines.
        window: how many of the last tokens are averaged; None averages all.
        embed: what is averaged: the base's token embeddings, or its last hidden states, for which the base reads
            every token once more, alone.
    """
    if embed not in ("tokens", "hidden"):
        raise RosterError(f"lora-tle: embed must be 'tokens' or 'hidden', not {embed!r}")
    if window is not None and window < 1:
        raise RosterError(f"lora-tle: window must be at least 1 token, not {window}")

    def head(whole: Site) -> PrefixMean:
        return PrefixMean(whole.width, window)

    def router(site: Site) -> Router:
        return Router(Cosine(torch.zeros(site.num_experts, site.width), scale=scale), All())

    known: list[tuple[ReferenceType[Surroundings], Tensor]] = []

    def prepare(part: Any, site: Site, surroundings: Surroundings) -> None:
        if not known or known[0][0]() is not surroundings:  # head and router are told of the same examples
            known[:] = [(ref(surroundings), _example_means(surroundings, embed))]
        vectors_ED = known[0][1]
        if isinstance(part, PrefixMean):
            part.center_D.copy_(vectors_ED.mean(0))
        else:
            part.score.vectors_ED.copy_(vectors_ED - vectors_ED.mean(0))

    reads: Literal["embeddings", "first pass"] = "first pass" if embed == "hidden" else "embeddings"
    return Mixing(router, at="model", head=head, head_reads=reads, prepare=prepare, remembers=True)


def _example_means(surroundings: Surroundings, embed: str) -> Tensor:
    """Mean embedding of each expert's example prompts, [E, D]."""
    if surroundings.rendering is None:
        raise RosterError("lora-tle reads the experts' example prompts and needs the base's tokenizer: pass tokenizer=")
    library, owners, rows = surroundings.library, [], []
    for expert, name in enumerate(library.names):
        examples = library[name].card.examples
        if not examples:
            raise RosterError(f"lora-tle needs example prompts on every card; the card of expert {name!r} has none")
        rows += [surroundings.rendering.ids(each) for each in examples]
        owners += [expert] * len(examples)
    sum_ND = _sums(surroundings.model, rows, embed)
    owner_N, E = torch.tensor(owners), len(library)
    sum_ED = sum_ND.new_zeros(E, sum_ND.shape[1]).index_add_(0, owner_N, sum_ND)
    count_E = sum_ND.new_zeros(E).index_add_(0, owner_N, torch.tensor([float(len(row)) for row in rows]))
    return sum_ED / count_E[:, None]


def _sums(model: Any, rows: Sequence[Sequence[int]], embed: str) -> Tensor:
    """What the running mean will average over the tokens of each row, summed, [N, D]; rows of like lengths together."""
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for start in range(0, len(order), _TOGETHER):
        some = order[start : start + _TOGETHER]
        inputs = padded([rows[at] for at in some], 0, "right")  # where pads disturb no token before them
        inputs = {name: each.to(model.device) for name, each in inputs.items()}
        if embed == "tokens":
            x_BSD: Tensor = model.get_input_embeddings()(inputs["input_ids"])
        else:
            x_BSD = model.base_model(**inputs, use_cache=False).last_hidden_state
        sum_BD = (x_BSD.float() * inputs["attention_mask"].to(x_BSD.device)[..., None]).sum(1)
        for at, sum_D in zip(some, sum_BD.cpu(), strict=True):
            found[at] = sum_D
    return torch.stack(found)


RECIPE = Recipe(
    slug="lora-tle",
    title="Token-level adaptation",
    source="Belofsky, 2023, Token-Level Adaptation of LoRA Adapters for Downstream Task Generalization, "
    "arXiv:2311.10847",
    compose=lora_tle,
    trains="nothing",
    batch_invariant=True,
    claim="Per-token weights follow a text that changes its task, and beat prompt-level weights and single adapters.",
    evidence="docs/results/claims.md",
    needs=("examples",),
)
