"""LoGo: each prompt asks every adapter once, at one layer, how strongly or how surely it would answer.

Equation: o_e = scale_e B_e A_e h, h what enters the last block at the prompt's last token, A_e and B_e of that
    block's query projection; s_e = |o_e| ("norm") or 1 / (H(softmax o_e) + 1e-6) ("entropy"); the top k, weighted by
    s_e over their sum.
Shapes: the factors of one layer, [E, R, I] and [E, O, R]; one route per row.
Trains: nothing, and no examples are needed.
Siblings: Arrow asks at every token and layer; `auto` asks example prompts instead of weights.
Source: Lee, Das, Gupta, Gummadi, 2026, "LoRA on the Go: Instance-level Dynamic LoRA Selection and Merging", ACL,
    arXiv:2511.07129; the authors' repository is archon159/LoGo.
Differences: the authors' program reads h in a pass with all adapters active the first time, and with those of the
    prompt before it later; here the base reads alone, so that rows are independent. Adapters
    that do not update that projection are never chosen.
Claim: not checked here as declared evidence; beside `auto` on the real ground in docs/results/auto.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roster.adapters.mixing import Mixing, Site, Surroundings
from roster.context import Context
from roster.errors import RosterError
from roster.recipes.needs import check_factors
from roster.recipes.recipe import Recipe
from roster.routed.one_block import OneBlock
from roster.routed.taps import blocks_of
from roster.router import Router
from roster.score import Decided
from roster.select import Given

_ABSENT = -1.0


class Signals(OneBlock):
    """Decides by what each adapter makes of one vector.

    Shape legend: B batch rows, S tokens, E experts, R largest rank, I and O widths of the projection, K on duty.

    Args:
        top_k: experts per row.
        signal: "norm" or "entropy".

    The block that it reads is the one before the last.
    """

    sized_by_file = frozenset({"A_ERI", "B_EOR"})
    A_ERI: Tensor
    B_EOR: Tensor

    def __init__(self, num_experts: int, top_k: int, signal: str):
        super().__init__()
        self.top_k, self.signal = min(top_k, num_experts), signal
        self.register_buffer("A_ERI", torch.zeros(num_experts, 0, 0))
        self.register_buffer("B_EOR", torch.zeros(num_experts, 0, 0))

    def features(self, hidden: Mapping[int, Tensor], context: Context) -> Tensor:
        """The prompt's last token, [B, I]."""
        (hidden_BSD,) = hidden.values()
        prompt_BS = context.prompt_mask(hidden_BSD.device)
        at_B = (prompt_BS * torch.arange(1, context.length + 1, device=prompt_BS.device)).argmax(1)
        return hidden_BSD[torch.arange(context.batch, device=at_B.device), at_B].float().to(self.A_ERI.device)

    def forward(self, x_BI: Tensor) -> Tensor:
        """The decision [B, 2, K]."""
        out_BEO = torch.einsum("bi,eri,eor->beo", x_BI, self.A_ERI, self.B_EOR)
        if self.signal == "norm":
            signal_BE = torch.linalg.vector_norm(out_BEO, dim=-1)
        else:
            signal_BE = 1 / (torch.special.entr(out_BEO.softmax(-1)).sum(-1) + 1e-6)
        present_E = self.A_ERI.flatten(1).any(1)
        top_BK, expert_BK = signal_BE.masked_fill(~present_E, _ABSENT).topk(self.top_k, dim=1)
        top_BK = top_BK.clamp_min(0.0)
        weight_BK = top_BK / top_BK.sum(1, keepdim=True).clamp_min(1e-12)
        return torch.stack([expert_BK.float(), weight_BK], dim=1)


def logo(top_k: int = 20, signal: Literal["norm", "entropy"] = "norm", projection: str = "q_proj") -> Mixing:
    """LoGo.

    Args:
        top_k: experts per prompt; all where there are fewer.
        signal: what is read of an adapter's output.
        projection: the linear layer of the last block at which adapters are asked.
    """
    if top_k < 1:
        raise RosterError(f"logo: top_k must be at least 1, not {top_k}")
    if signal not in ("norm", "entropy"):
        raise RosterError(f"logo: signal must be 'norm' or 'entropy', not {signal!r}")

    def prepare(part: Any, site: Site, surroundings: Surroundings) -> None:
        if not isinstance(part, Signals):
            return
        blocks = blocks_of(surroundings.model)
        library, prefix = surroundings.library, f"{blocks[-1][0]}."
        own = [name for name in library.module_names if name.startswith(prefix) and name.endswith(f".{projection}")]
        if not own or len(blocks) < 2:
            raise RosterError(
                f"logo asks adapters at {projection!r} of the last block, which none of these updates: "
                "name another layer of it with the option projection"
            )
        updates = [library[name].modules.get(own[0]) for name in site.experts]
        found = [each for each in updates if each is not None]
        for each in found:
            check_factors(each, "logo")
        rank = max(each.A_RD.shape[0] for each in found)
        like = found[0]
        factors = [
            (torch.zeros(rank, like.A_RD.shape[1]), torch.zeros(like.B_OR.shape[0], rank))
            if each is None
            else (
                F.pad(each.A_RD.float(), (0, 0, 0, rank - each.A_RD.shape[0])),
                F.pad(each.B_OR.float() * each.scale, (0, rank - each.A_RD.shape[0])),
            )
            for each in updates
        ]
        part.register_buffer("A_ERI", torch.stack([A for A, _ in factors]))
        part.register_buffer("B_EOR", torch.stack([B for _, B in factors]))
        part.read_behind(len(blocks) - 1)

    def head(whole: Site) -> nn.Module:
        return Signals(whole.num_experts, top_k, signal)

    return Mixing(
        lambda site: Router(Decided(site.num_experts), Given(min(top_k, site.num_experts))),
        at="model",
        head=head,
        head_reads="prompt",
        prepare=prepare,
    )


RECIPE = Recipe(
    slug="logo",
    title="LoGo",
    source="Lee et al., 2026, LoRA on the Go: Instance-level Dynamic LoRA Selection and Merging, ACL 2026, "
    "arXiv:2511.07129",
    compose=logo,
    trains="nothing",
    batch_invariant=True,
    claim="Adapters chosen and weighted per prompt by their own outputs rival trained routers, without training.",
    evidence="docs/results/auto.md",
)
