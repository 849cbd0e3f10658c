"""Claims about small trained adapters of many parts: SMoRA, SiRA, Omni-SMoLA, C-Poly, MHR, on `toy.py`'s frozen layer.

Shape legend: B rows, S tokens per row, C kinds of tokens, I and O widths, E experts, N tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from evidence.checks.toy import WIDTH, Batch, Layer, error, train
from evidence.protocol.check import Check, Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.balance import LoadBalancing
from roster.experts import HeadExperts, RankExperts, SlotExperts
from roster.router import Router
from roster.score import Constant, Linear, PerRank, Slots, TaskTable
from roster.score.task_id import OUT_OF_REACH
from roster.select import All, Capacity, ClusterDropout, Parts, RelaxedBernoulli, Soft, TopK, TopRanks

KINDS, STEPS, ROWS = 6, 600, 32


class Kinds:
    """Tokens of six kinds in one row, each with its own mean and its own update of rank 2.

    Args:
        tokens: how many there are to learn from; 0 draws new ones at every step.
        by_row: all tokens of a row are of one kind.
    """

    def __init__(self, tokens: int = 0, by_row: bool = False):
        self.by_row = by_row
        self.mean_CI = torch.randn(KINDS, WIDTH)
        self.update_COI = torch.randn(KINDS, WIDTH, 2) @ torch.randn(KINDS, 2, WIDTH) / 4
        self.kept = self.fresh(tokens // 4) if tokens else None

    def fresh(self, rows: int) -> Batch:
        """New rows of four tokens."""
        kind_BS = (
            torch.randint(0, KINDS, (rows, 1)).expand(-1, 4) if self.by_row else torch.randint(0, KINDS, (rows, 4))
        )
        x_BSI = self.mean_CI[kind_BS] + torch.randn(rows, 4, WIDTH)
        return x_BSI, torch.einsum("bsoi,bsi->bso", self.update_COI[kind_BS], x_BSI), torch.zeros(rows).long()

    def draw(self) -> Batch:
        """To learn from."""
        if self.kept is None:
            return self.fresh(ROWS)
        at_B = torch.randint(0, len(self.kept[0]), (ROWS,))
        return self.kept[0][at_B], self.kept[1][at_B], self.kept[2][at_B]


def _on_kinds(make: Callable[[], Layer], tokens: int = 0, by_row: bool = False) -> Contender:
    """Relative error on fresh tokens after 600 steps."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.ground)
        ground = Kinds(tokens, by_row)
        torch.manual_seed(draw.luck + 1_000)
        layer = make()
        train(layer, ground.draw, draw.steps(STEPS), rate=5e-3)
        torch.manual_seed(draw.ground + 500_000)
        return error(layer, ground.fresh(512))

    return run


def _lora(rank: int) -> Callable[[], Layer]:
    return lambda: Layer(Router(Constant(torch.ones(1)), All("none")), 1, rank)


def _loras(count: int, rank: int, k: int) -> Callable[[], Layer]:
    """A mixture of LoRAs, the best k per token."""
    return lambda: Layer(Router(Linear(WIDTH, count), TopK(k, "all"), [LoadBalancing(0.01)]), count, rank)


def _smora(count: int, rank: int, k: int) -> Layer:
    ranks = [rank] * count
    layer = Layer(Router(PerRank(WIDTH, ranks), TopRanks(k, ranks, rate=1e-5)), count, rank)
    layer.experts = RankExperts([layer.experts.expert(each) for each in range(count)], trains=True)
    return layer


def _sira(count: int, rank: int, k: int, dropout: float, capacity: float) -> Layer:
    select: nn.Module = ClusterDropout(TopK(k, "all"), [0] * count, dropout)
    if capacity:
        select = Capacity(select, capacity, "score", when="training")
    return Layer(Router(Linear(WIDTH, count), select, [LoadBalancing(0.01)]), count, rank)


def _smola(count: int, rank: int, slots: int, even: bool = False) -> Layer:
    """Every expert reads means of a row's tokens; `even` keeps the means even."""
    score = Slots(WIDTH, count, slots)
    layer = Layer(Router(score, Soft(slots)), count, rank)
    if even:
        for each in score.parameters():
            each.data.zero_()
            each.requires_grad_(False)
    layer.experts = SlotExperts([layer.experts.expert(each) for each in range(count)], trains=True)
    return layer


TASKS, SHARED = 6, 4


class Kin:
    """Tasks that mix two of four shared updates of rank 2, and add `own` times an update of rank 1 of their own.

    The last task is left out of what `draw` draws, for learning from few examples.
    """

    def __init__(self, own: float):
        weight_NE = torch.rand(TASKS + 1, SHARED)
        weight_NE = weight_NE * (weight_NE >= weight_NE.topk(2, 1).values[:, 1:])
        shared_EOI = torch.randn(SHARED, WIDTH, 2) @ torch.randn(SHARED, 2, WIDTH) / 4
        own_NOI = torch.randn(TASKS + 1, WIDTH, 1) @ torch.randn(TASKS + 1, 1, WIDTH) / 4
        self.update_NOI = torch.einsum("ne,eoi->noi", weight_NE, shared_EOI) + own * own_NOI

    def rows(self, task_B: Tensor) -> Batch:
        """Four tokens of each of these tasks."""
        x_BSI = torch.randn(len(task_B), 4, WIDTH)
        return x_BSI, torch.einsum("boi,bsi->bso", self.update_NOI[task_B], x_BSI), task_B

    def draw(self) -> Batch:
        """Known tasks."""
        return self.rows(torch.randint(0, TASKS, (ROWS,)))


def _c_poly(shared: int, private: int, rank: int) -> Layer:
    """So many skills that all tasks share, and for each task so many of its own.

    As the recipe composes it: a column of the table for what is shared, one for what is a task's own.
    """
    count = shared + private * TASKS
    closed_NEP = torch.zeros(TASKS, count, 2, dtype=torch.bool)
    closed_NEP[:, shared:, 0] = True
    for task in range(TASKS):
        first = shared + private * task
        closed_NEP[task, :first, 1] = closed_NEP[task, first + private :, 1] = True
    start = torch.empty(TASKS, count, 2).uniform_(-1e-3, 1e-3)
    table = TaskTable(start, torch.full((count, 2), OUT_OF_REACH), trains=True, closed_NE=closed_NEP)
    return Layer(Router(table, Parts(RelaxedBernoulli(), 2, "sum")), count, rank)


def _known(make: Callable[[], Layer]) -> Contender:
    """Relative error on the six known tasks."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.ground)
        ground = Kin(own=1.0)
        torch.manual_seed(draw.luck + 1_000)
        layer = make()
        train(layer, ground.draw, draw.steps(2 * STEPS), rate=5e-3, router_rate=5e-2)
        torch.manual_seed(draw.ground + 500_000)
        return error(layer, ground.rows(torch.arange(TASKS).repeat(64)))

    return run


def _new(heads: int, own: float = 0.5) -> Contender:
    """Relative error on a new task, of which the row of the table is learned from three rows."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.ground)
        ground = Kin(own)
        torch.manual_seed(draw.luck + 1_000)
        start_NEP = torch.empty(TASKS + 1, SHARED, heads).uniform_(-1e-3, 1e-3)
        router = Router(TaskTable(start_NEP, trains=True), Parts(RelaxedBernoulli(), heads))
        layer = Layer(router, SHARED, 3)
        layer.experts = HeadExperts([layer.experts.expert(e) for e in range(SHARED)], heads, trains=True)
        train(layer, ground.draw, draw.steps(2 * STEPS), rate=5e-3, router_rate=5e-2)
        torch.manual_seed(draw.luck + 2_000)
        few = ground.rows(torch.full((3,), TASKS))
        layer.experts.requires_grad_(False)
        train(layer, lambda: few, draw.steps(300), router_rate=5e-2)
        torch.manual_seed(draw.ground + 500_000)
        return error(layer, ground.rows(torch.full((256,), TASKS)))

    return run


def _claim(
    slug: str,
    claim: str,
    ground: str,
    budget: str,
    contenders: Mapping[str, tuple[str, Contender]],
    pairs: Pairs,
    effect: float = 0.03,
) -> Check:
    return make_check(
        slug=slug,
        version=1,
        claim=claim,
        ground=f"{ground}; a frozen layer of width 16",
        budget=budget,
        contenders=contenders,
        pairs=pairs,
        statistic=Statistic("relative squared error on fresh tokens", "lower", effect),
    )


MIXED = "tokens of six kinds in a row, each kind with its own mean and update of rank 2"
FEW = 384

CHECKS = (
    _claim(
        "smora",
        "Few of many ranks, chosen per token, beat a mixture of LoRAs with as many active ranks.",
        MIXED,
        "4 adapters of rank 6; 6 ranks serve a token, or one whole adapter: equal parameters but for the routers",
        {
            "SMoRA": ("the best 6 of 24 ranks", _on_kinds(lambda: _smora(4, 6, 6))),
            "LoRAs": ("the best one of 4 LoRAs of rank 6: ranks chosen together", _on_kinds(_loras(4, 6, 1))),
            "LoRA": ("control: one LoRA of rank 6, which cannot tell kinds apart", _on_kinds(_lora(6))),
        },
        Pairs("SMoRA", "LoRAs", "LoRAs", "LoRAs", "LoRA"),
    ),
    _claim(
        "sira",
        "Sparse experts with a capacity and expert dropout beat one LoRA where rows are few.",
        f"{MIXED}; {FEW} tokens to learn from",
        "8 experts of rank 2, 4 serve, against one LoRA of rank 8: equal active ranks, twice the parameters; 600 steps",
        {
            "SiRA": (
                "capacity 1.25, each token loses an expert of 8",
                _on_kinds(lambda: _sira(8, 2, 4, 0.125, 1.25), FEW),
            ),
            "LoRA": ("one LoRA of rank 8", _on_kinds(_lora(8), FEW)),
            "plain": ("no capacity and no dropout", _on_kinds(lambda: _sira(8, 2, 4, 0.0, 0.0), FEW)),
            "endless": (
                "control: 8 experts without capacity and dropout, new tokens at every step",
                _on_kinds(lambda: _sira(8, 2, 4, 0.0, 0.0)),
            ),
        },
        Pairs("SiRA", "LoRA", "plain", "endless", "LoRA"),
    ),
    _claim(
        "omni-smola",
        "Soft low-rank experts make a generalist better at a mixture of tasks than one LoRA.",
        "tokens of six kinds, the four of a row of one kind, each kind with its own mean and update of rank 2",
        "4 experts of rank 4, 2 slots each, or one LoRA of rank 16: equal parameters but for the slots",
        {
            "Omni-SMoLA": (
                "every expert reads two weighted means of the row",
                _on_kinds(lambda: _smola(4, 4, 2), 0, True),
            ),
            "LoRA": ("one LoRA of rank 16", _on_kinds(_lora(16), 0, True)),
            "even": ("the means and shares stay even", _on_kinds(lambda: _smola(4, 4, 2, even=True), 0, True)),
            "LoRAs": ("control: the best one of 4 LoRAs of rank 4", _on_kinds(_loras(4, 4, 1), 0, True)),
        },
        Pairs("Omni-SMoLA", "LoRA", "even", "LoRAs", "LoRA"),
    ),
    _claim(
        "c-poly",
        "Shared skills with private ones beside them beat shared skills alone, and private ones alone.",
        "six tasks that mix two of four shared updates of rank 2 and add one of rank 1 of their own",
        "equal total rank, 14, but for the private ones alone, who have 12; tables beside",
        {
            "C-Poly": ("8 shared skills and 6 private ones of rank 1", _known(lambda: _c_poly(8, 1, 1))),
            "shared or private": (
                "the better of 14 shared ones of rank 1, and 6 private ones of rank 2, chosen on the test",
                lambda draw: min(_known(lambda: _c_poly(14, 0, 1))(draw), _known(lambda: _c_poly(0, 1, 2))(draw)),
            ),
            "shared": ("14 shared ones of rank 1: nothing private", _known(lambda: _c_poly(14, 0, 1))),
            "wide": ("control: 6 private ones of rank 5, all that a task needs", _known(lambda: _c_poly(0, 1, 5))),
        },
        Pairs("C-Poly", "shared or private", "shared", "wide", "shared or private"),
        0.01,
    ),
    _claim(
        "mhr",
        "More heads adapt better to new tasks from few examples than one, at the same skills.",
        "six tasks to learn skills from; a seventh that mixes two of the four shared updates and adds one of its own, "
        "with twelve tokens to learn its row of the table from",
        "4 skills of rank 3; of a new task 16 numbers, or 4",
        {
            "4 heads": ("an allocation for each quarter of the widths", _new(4)),
            "1 head": ("one allocation: Polytropon", _new(1)),
            "kin": ("control: one head where no task has an update of its own", _new(1, 0.0)),
        },
        Pairs("4 heads", "1 head", "1 head", "kin", "1 head"),
    ),
)
