"""Claims about dense models that become mixtures: carved without training afterwards, or upcycled and mixed and then
trained on. What counts is the held-out loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from evidence.grounds.trained import carried_out, folder, load, loss, texts, train
from evidence.protocol.check import Check, Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.arena.moe.data import DOMAINS
from roster.convert import read_me
from roster.convert.btx import plan_btx
from roster.convert.carving import Cut
from roster.convert.cmoe import plan_cmoe
from roster.convert.dense import Dense, open_dense
from roster.convert.factorllm import plan_factorllm
from roster.convert.upcycling import plan_upcycling
from roster.weights import Plan

GROUND = (
    "a Llama of 3 layers, width 64, 128 hidden units, trained for 300 steps of 8 x 96 tokens on code, manual and skills"
)
MORE = 60
RATE = 1e-3
Cuts = Callable[[dict[int, Cut], torch.Generator], dict[int, Cut]]


def carved(make: Callable[[Dense, Draw], Plan]) -> Contender:
    """Held-out loss of what a plan makes of the ground's dense model, without training."""

    def run(draw: Draw) -> float:
        return loss(carried_out(make(open_dense(folder(draw, "dense")), draw)), short=draw.short)

    return run


def _cmoe(**options: Any) -> Contender:
    fixed = {"experts": 8, "shared": 2, "active": 2, **options}
    return carved(lambda dense, draw: plan_cmoe(dense, texts(draw), seed=draw.luck, **fixed))


def _factorllm(**options: Any) -> Contender:
    return carved(lambda dense, draw: plan_factorllm(dense, texts(draw), seed=draw.luck, **options))


def _read_me(share: float = 0.5, cuts: Cuts | None = None) -> Contender:
    """Experts by domain; `cuts` changes what was cut."""

    def make(dense: Dense, draw: Draw) -> Plan:
        domains = [texts(draw, (name,), 16, salt) for salt, name in enumerate(DOMAINS)]
        cut_by_use = read_me.cut_by_use
        dice = torch.Generator().manual_seed(draw.luck)

        def changed(*given: Any) -> dict[int, Cut]:
            found = cut_by_use(*given)
            return found if cuts is None else cuts(found, dice)

        with mock.patch.object(read_me, "cut_by_use", changed):
            return read_me.plan_read_me(dense, domains, share)

    return carved(make)


def _random_units(found: dict[int, Cut], dice: torch.Generator) -> dict[int, Cut]:
    """As many units always on and in each expert, drawn at random."""

    def draw(cut: Cut) -> Cut:
        count, size = len(cut.always), len(cut.experts[0])
        order = torch.randperm(128, generator=dice).tolist()
        rest = order[count:]
        experts = [[rest[at] for at in torch.randperm(len(rest), generator=dice)[:size]] for _ in cut.experts]
        return Cut(sorted(order[:count]), [sorted(each) for each in experts], cut.rows_ED)

    return {layer: draw(cut) for layer, cut in found.items()}


def _others(found: dict[int, Cut], _dice: torch.Generator) -> dict[int, Cut]:
    """Every domain is sent to another one's expert."""
    return {at: Cut(cut.always, [*cut.experts[1:], cut.experts[0]], cut.rows_ED) for at, cut in found.items()}


def trained_on(
    make: Callable[[Draw], Any], steps: int = MORE, change: Callable[[Any], None] | None = None
) -> Contender:
    """Held-out loss of a model that was trained on for so many steps."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.luck)
        model = make(draw)
        if change is not None:
            change(model)
        return loss(train(model, 3_000 + draw.luck, draw.steps(steps), rate=RATE), short=draw.short)

    return run


def _dense(draw: Draw) -> Any:
    return load(folder(draw, "dense"))


def _upcycled(**options: Any) -> Callable[[Draw], Any]:
    return lambda draw: carried_out(plan_upcycling(open_dense(folder(draw, "dense")), seed=draw.luck, **options))


def _ungrouped(model: Any) -> None:
    """Every row of the routers drawn by itself."""
    for layer in model.model.layers:
        nn.init.normal_(layer.mlp.gate.weight, std=0.02)


@lru_cache(maxsize=2)
def _by_domain(draw: Draw) -> tuple[Path, ...]:
    return tuple(folder(draw, "dense", name, MORE) for name in DOMAINS)


def _mixed(draw: Draw) -> Any:
    return carried_out(plan_btx([open_dense(each) for each in _by_domain(draw)], seed=draw.luck))


def _averaged(draw: Draw) -> Any:
    models = [load(each) for each in _by_domain(draw)]
    mean = {k: torch.stack([m.state_dict()[k] for m in models]).mean(0) for k in models[0].state_dict()}
    models[0].load_state_dict(mean)
    return models[0]


def _claim(
    slug: str,
    claim: str,
    budget: str,
    contenders: Mapping[str, tuple[str, Contender]],
    pairs: Pairs,
    effect: float = 0.02,
) -> Check:
    return make_check(
        slug=slug,
        version=1,
        claim=claim,
        ground=GROUND,
        budget=budget,
        contenders=contenders,
        pairs=pairs,
        statistic=Statistic("held-out loss in nats per token", "lower", effect),
    )


HALF = "half of the hidden units serve a token; 48 rows of 96 tokens to calibrate on; nothing is trained afterwards"
DENSE: tuple[str, Contender] = ("the dense model, trained on for as many steps", trained_on(_dense))

CHECKS = (
    _claim(
        "cmoe",
        "At half of the units, carving by what fires together with an analytic router loses less than a random split.",
        HALF,
        {
            "CMoE": ("2 parts always on, 2 of 6 by the analytic router, parts by marks", _cmoe()),
            "random split": ("parts at random, the same router", _cmoe(partition="random")),
            "random router": ("parts by marks, router rows at random", _cmoe(router="random")),
            "more": ("control: parts at random, 4 of 6", _cmoe(partition="random", active=4)),
        },
        Pairs("CMoE", "random split", "random router", "more", "random split"),
    ),
    _claim(
        "factorllm",
        "A router taught by the dense block comes nearer to it with half of the slices than a random one.",
        HALF,
        {
            "taught": ("2 of 4 slices by a router taught by the block", _factorllm()),
            "random": ("2 of 4 slices by router rows at random", _factorllm(router="random")),
            "more": ("control: 3 of 4 slices by router rows at random", _factorllm(router="random", top_k=3)),
        },
        Pairs("taught", "random", "random", "more", "random"),
    ),
    _claim(
        "read-me",
        "Experts of a dense model's most used units by domain lose less than random ones of the same size.",
        "a domain's mask is half of the hidden units; what all share is always on, one expert a token; nothing is "
        "trained afterwards",
        {
            "Read-ME": ("units by use, experts by domain", _read_me()),
            "random": ("as many units always on and an expert, at random", _read_me(cuts=_random_units)),
            "another's": ("every domain gets another one's expert", _read_me(cuts=_others)),
            "more": ("control: random units, masks of 70 %", _read_me(0.7, _random_units)),
        },
        Pairs("Read-ME", "random", "another's", "more", "random"),
    ),
    _claim(
        "nemotron-upcycling",
        "Upcycled shards in virtual groups are, after equal training, better than the dense model.",
        f"equal active units (128): 2 of 8 shards of 64, or the block; {MORE} more steps for all",
        {
            "granular": ("4 copies of 2 shards in virtual groups", trained_on(_upcycled(shards=2, copies=4, groups=1))),
            "dense": DENSE,
            "ungrouped": (
                "the same shards, every row of the routers drawn by itself",
                trained_on(_upcycled(shards=2, copies=4, groups=1), change=_ungrouped),
            ),
            "as it was": ("control: the dense model as it was", trained_on(_dense, 2)),
        },
        Pairs("granular", "dense", "ungrouped", "dense", "as it was"),
    ),
    _claim(
        "btx",
        "At equal tokens, domain models mixed and then trained are better than sparse upcycling and than training on.",
        f"3 domain models of {MORE} steps each and {MORE} steps together, or {4 * MORE} steps; 2 of 3 experts of 128 "
        "units serve, in the dense model 128 units",
        {
            "BTX": ("three domain models, mixed, trained together", trained_on(_mixed)),
            "upcycled": ("three copies, trained for all steps", trained_on(_upcycled(copies=3), 4 * MORE)),
            "averaged": ("the three models' mean, trained on", trained_on(_averaged)),
            "trained on": ("the dense model for all steps", trained_on(_dense, 4 * MORE)),
            "less": ("control, a handicap: the dense model for a quarter of the steps", trained_on(_dense)),
        },
        Pairs("BTX", "upcycled", "averaged", "trained on", "less"),
    ),
)
