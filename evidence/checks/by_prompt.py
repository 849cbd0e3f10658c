"""Claims about experts that a prompt's cluster chooses, on `toy.py`'s frozen layer: MoCLE, Intuition-MoR1E.

All tokens of a row are of one kind; k-means finds kinds in the rows' means, as it does with prompts.

Shape legend: B rows, S tokens per row, T = B * S, C kinds of tokens, I and O widths, E experts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from evidence.checks.light import KINDS, ROWS, Kinds
from evidence.checks.toy import WIDTH, Batch, Layer, error, train
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.context import DECISION, Context
from roster.experts import RankExperts
from roster.router import Router
from roster.score import ByCluster, Constant, PerRank, Total
from roster.select import All, TopK, TopRanks, Universal

STEPS, EXPERTS, RANK = 600, 4, 4
Decide = Callable[[Tensor], Tensor]
"""Rows' means [B, I] -> how much of which cluster each row is, [B, C]."""


class Prompted(Layer):
    """A routed update whose router knows what a row is like.

    Args:
        router, num_experts, rank: as of `Layer`.
        decide: from rows' means.
    """

    def __init__(self, router: Router, num_experts: int, rank: int, decide: Decide):
        super().__init__(router, num_experts, rank)
        self.decide = decide

    def forward(self, x_BSI: Tensor, task_B: Tensor) -> Tensor:
        """The update's output [B, S, O]."""
        B, S, _ = x_BSI.shape
        share_BC = self.decide(x_BSI.mean(1))
        cluster_BC = torch.arange(share_BC.shape[1]).expand_as(share_BC).float()
        context = Context(B, S, memory={DECISION: torch.stack([cluster_BC, share_BC], 1)})
        x_TI = x_BSI.reshape(B * S, -1)
        route = self.router(x_TI, context)
        return self.experts(x_TI, torch.zeros(B * S, WIDTH), route).view(B, S, WIDTH)


def nearest(ground: Kinds, seed: int) -> Decide:
    """The nearest of as many centres as there are kinds."""
    centre_CI = _centres(ground, seed)
    return lambda mean_BI: torch.nn.functional.one_hot(torch.cdist(mean_BI, centre_CI).argmin(1), KINDS).float()


def alike(ground: Kinds, seed: int) -> Decide:
    """A softmax of ten times the cosine to each centre."""
    centre_CI = torch.nn.functional.normalize(_centres(ground, seed), dim=1)
    return lambda mean_BI: (10 * torch.nn.functional.normalize(mean_BI, dim=1) @ centre_CI.T).softmax(1)


def by_lot(_ground: Kinds, seed: int) -> Decide:
    """Any cluster, drawn anew for every row."""
    dice = torch.Generator().manual_seed(seed)
    return lambda mean_BI: torch.eye(KINDS)[torch.randint(KINDS, (len(mean_BI),), generator=dice)]


def _centres(ground: Kinds, seed: int) -> Tensor:
    means_NI = ground.fresh(512)[0].mean(1)
    found = KMeans(KINDS, n_init=3, random_state=seed).fit(means_NI.numpy())
    return torch.tensor(found.cluster_centers_)


class Kindred(Kinds):
    """Kinds whose updates share a part, and one more kind that is never learned from."""

    def __init__(self) -> None:
        super().__init__(by_row=True)
        common_OI = torch.randn(WIDTH, 2) @ torch.randn(2, WIDTH) / 4
        self.update_COI = self.update_COI / 2 + common_OI
        own_OI = torch.randn(WIDTH, 2) @ torch.randn(2, WIDTH) / 8
        self.new_mean_I, self.new_OI = torch.randn(WIDTH), own_OI + common_OI

    def unseen(self, rows: int) -> Batch:
        """Rows of the kind that nobody has seen."""
        x_BSI = self.new_mean_I + torch.randn(rows, 4, WIDTH)
        return x_BSI, torch.einsum("oi,bsi->bso", self.new_OI, x_BSI), torch.zeros(rows).long()


def _on(
    make: Callable[[Kinds, int], Layer], ground_of: Callable[[], Kinds], judged: Callable[[Kinds], Batch]
) -> Contender:
    """Relative error on fresh rows."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.ground)
        ground = ground_of()
        torch.manual_seed(draw.luck + 1_000)
        layer = make(ground, draw.luck)
        train(layer, ground.draw, draw.steps(STEPS), rate=5e-3)
        torch.manual_seed(draw.ground + 500_000)
        return error(layer, judged(ground))

    return run


def _kinds(make: Callable[[Kinds, int], Layer]) -> Contender:
    return _on(make, lambda: Kinds(by_row=True), lambda ground: ground.fresh(512))


def _kindred(make: Callable[[Kinds, int], Layer], seen: bool = False) -> Contender:
    def judged(ground: Kinds) -> Batch:
        assert isinstance(ground, Kindred)
        return ground.fresh(512) if seen else ground.unseen(512)

    return _on(make, Kindred, judged)


def _mocle(decide: Callable[[Kinds, int], Decide], universal: bool = True) -> Callable[[Kinds, int], Layer]:
    """Four experts of which a cluster has one, and a universal one; or five of which it has one."""

    def make(ground: Kinds, seed: int) -> Layer:
        select: nn.Module = Universal(EXPERTS, 0.1, 0.1) if universal else TopK(1, "all", temperature=0.1)
        router = Router(ByCluster(KINDS, 32, EXPERTS + 1), select)
        return Prompted(router, EXPERTS + 1, RANK, decide(ground, seed))

    return make


def _mor1e(intuition: bool = True) -> Callable[[Kinds, int], Layer]:
    """The best 6 of 24 ranks, by the token and by the row's cluster."""

    def make(ground: Kinds, seed: int) -> Layer:
        ranks = [6] * EXPERTS
        scores: list[nn.Module] = [PerRank(WIDTH, ranks)]
        parts = [*scores, ByCluster(KINDS, WIDTH, EXPERTS, ranks, std=0.02)] if intuition else scores
        layer = Prompted(Router(Total(parts), TopRanks(6, ranks, "softmax")), EXPERTS, 6, alike(ground, seed))
        layer.experts = RankExperts([layer.experts.expert(each) for each in range(EXPERTS)], trains=True)
        return layer

    return make


def _lora(rank: int) -> Callable[[Kinds, int], Layer]:
    return lambda _ground, _seed: Layer(Router(Constant(torch.ones(1)), All("none")), 1, rank)


GROUND = f"rows of six kinds, {ROWS} of four tokens a step, each kind with its own mean and update of rank 2"
LAYER = "a frozen layer of width 16; k-means on the rows' means finds six clusters"
WHAT = Statistic("relative squared error on fresh tokens", "lower", 0.03)

CHECKS = (
    make_check(
        slug="mocle",
        part="conflict",
        version=1,
        claim="Experts by cluster beat one LoRA where tasks conflict.",
        ground=f"{GROUND}; {LAYER}",
        budget="five experts of rank 4, two serve a token, or one LoRA of rank 20, more than the width",
        contenders={
            "MoCLE": ("each cluster has one of four experts, beside a universal one", _kinds(_mocle(nearest))),
            "LoRA": ("one LoRA of rank 20", _kinds(_lora(20))),
            "by lot": ("the same experts, every row in any cluster", _kinds(_mocle(by_lot))),
            "weak": ("control: one LoRA of rank 1", _kinds(_lora(1))),
        },
        pairs=Pairs("MoCLE", "LoRA", "by lot", "LoRA", "weak"),
        statistic=WHAT,
    ),
    make_check(
        slug="mocle",
        part="unseen",
        version=2,  # version 1 had ten seeds, and 58 would settle it
        claim="The universal expert carries tasks that nobody has seen.",
        ground=f"{GROUND} and an update of rank 2 that all share; judged on a seventh kind; {LAYER}",
        budget="five experts of rank 4; with the universal one two serve a token, without it one",
        contenders={
            "MoCLE": ("each cluster has one of four experts, beside a universal one", _kindred(_mocle(nearest))),
            "no universal": ("each cluster has one of five experts", _kindred(_mocle(nearest, universal=False))),
            "seen": (
                "control: the same experts, judged on the kinds that were learned",
                _kindred(_mocle(nearest), True),
            ),
        },
        pairs=Pairs("MoCLE", "no universal", "no universal", "seen", "no universal"),
        statistic=WHAT,
        seeds=60,
    ),
    make_check(
        slug="intuition-mor1e",
        version=1,
        claim="Rank-1 experts, guided by clusters of instances, beat a LoRA with as many parameters.",
        ground=f"{GROUND}; {LAYER}",
        budget="24 ranks of which 6 serve, and routers of 27 ranks' size, or one LoRA of rank 51, more than the width",
        contenders={
            "MoR1E": ("the best 6 of 24 ranks by the token and the row's clusters", _kinds(_mor1e())),
            "LoRA": ("one LoRA of rank 51", _kinds(_lora(51))),
            "no intuition": ("the best 6 of 24 ranks by the token alone", _kinds(_mor1e(intuition=False))),
            "weak": ("control: one LoRA of rank 1", _kinds(_lora(1))),
        },
        pairs=Pairs("MoR1E", "LoRA", "no intuition", "LoRA", "weak"),
        statistic=WHAT,
    ),
)
