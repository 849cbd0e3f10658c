"""Claims about routed adapters on the pocket models: MoLORA and MoV, MiLoRA, X-LoRA, LoGo, PSEC, SA-MDKIF, Self-MoE.

Six skills of the pocket models; finished experts are those that come along. What is trained sees 100 batches of 32
rows; what counts is the loss of the answers to test prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from evidence.checks.pocket_runs import SKILLS, STEPS, TARGETS, answer_loss, learn, training_rows
from evidence.protocol.check import Check, Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster import pocket
from roster.adapters.attach import attach
from roster.adapters.mixing import Mixing, Site
from roster.balance import LoadBalancing
from roster.library import Library
from roster.library.fresh import fresh
from roster.recipes import find
from roster.recipes.milora import milora
from roster.router import Router
from roster.score import Linear, Random
from roster.select import TopK

FEW = SKILLS[:3]


def _finished(
    make: Callable[[Draw], Mixing], rate: float = 5e-3, skills: Sequence[str] = SKILLS, longer: int = 1
) -> Contender:
    """Answer loss of routed finished experts, whose routers are trained where the plan has them trained."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.luck)
        base, tokenizer = pocket.load_base()
        library = Library.read(pocket.experts_path())
        mixing = make(draw)
        model = attach(base, Library({skill: library[skill] for skill in skills}), mixing, tokenizer=tokenizer)
        if mixing.trains:
            _learn(model, tokenizer, draw, rate, longer)
        return answer_loss(model, tokenizer, SKILLS, 2 if draw.short else 40)

    return run


def _learn(model: Any, tokenizer: Any, draw: Draw, rate: float, longer: int = 1) -> None:
    steps = draw.steps(STEPS) * longer
    learn(model, tokenizer, training_rows(SKILLS, draw.luck, steps), draw.luck, rate, steps)


def _light(count: int, rank: int, rate: float, vectors: bool = False, routed: bool = True) -> Contender:
    """Answer loss of fresh experts that are trained with their routers."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.luck)
        base, tokenizer = pocket.load_base()
        options = {"experts": "vectors"} if vectors else {}
        library = fresh(base, [f"expert {i}" for i in range(count)], TARGETS, rank=rank, alpha=2.0 * rank)
        plan = find("mov-molora")(options)
        model = attach(base, library, plan, recipe="mov-molora", options=options)
        if not routed:
            for module in model.modules():
                if isinstance(module, Router):
                    nn.init.zeros_(module.score.weight_ED)
                    module.score.requires_grad_(False)
        _learn(model, tokenizer, draw, rate)
        return answer_loss(model, tokenizer, SKILLS, 2 if draw.short else 40)

    return run


@cache
def _equal_rank(experts: int, rank: int) -> int:
    """The rank of one LoRA with the parameters of a MoLORA of the pocket base, routers included."""
    base, _ = pocket.load_base()
    layers = [module for name, module in base.named_modules() if name.endswith("_proj")]
    one_rank = sum(layer.in_features + layer.out_features for layer in layers)
    routers = sum(layer.in_features for layer in layers) * experts
    return round((experts * rank * one_rank + routers) / one_rank)


def _equal_one(draw: Draw) -> float:
    return _light(1, _equal_rank(4, 4), 4e-3)(draw)


def _by_token(_draw: Draw) -> Mixing:
    def router(site: Site) -> Router:
        return Router(Linear(site.width, site.num_experts), TopK(2), [LoadBalancing(0.01)])

    return Mixing(router, at="block", trains=frozenset({"router"}))


def _at_random(draw: Draw) -> Mixing:
    def router(site: Site) -> Router:
        return Router(Random(site.num_experts, seed=1000 * draw.luck + site.index), TopK(2))

    return Mixing(router, at="block")


def _plan(recipe: str, options: dict[str, Any] | None = None) -> Callable[[Draw], Mixing]:
    def make(_draw: Draw) -> Mixing:
        made: Mixing = find(recipe)(options or {})
        return made

    return make


def _claim(
    slug: str,
    claim: str,
    budget: str,
    contenders: dict[str, tuple[str, Contender]],
    pairs: Pairs,
    asks: Literal["better", "no worse"] = "better",
    part: str = "",
) -> Check:
    return make_check(
        slug=slug,
        part=part,
        version=1,
        claim=claim,
        ground="pocket models: six skills, 100 batches of 32 rows where something is trained, 240 test prompts",
        budget=budget,
        contenders=contenders,
        pairs=pairs,
        statistic=Statistic("nats per answer token", "lower", 0.05, asks),
        seeds=5,
    )


UNIFORM: tuple[str, Contender] = ("all six experts alike", _finished(_plan("uniform")))
THREE: tuple[str, Contender] = (
    "control: the experts of three of the skills alike, which the others miss",
    _finished(_plan("uniform"), skills=FEW),
)


def _unlearned(plan: Mixing) -> Mixing:
    return replace(plan, trains=frozenset())


def _untrained(recipe: str) -> Contender:
    """A recipe whose router stays as it is drawn."""
    return _finished(lambda draw: _unlearned(_plan(recipe)(draw)))


def _best_single(draw: Draw) -> float:
    """The one of the six that has the lowest loss on all, chosen on the test."""
    return min(_finished(_plan("uniform"), skills=(skill,))(draw) for skill in SKILLS)


SINGLE: tuple[str, Contender] = ("the best one of the six for all prompts, chosen on the test", _best_single)


CHECKS = (
    _claim(
        "mov-molora",
        "A routed mixture of low-rank experts beats one adapter of equal parameters.",
        "equal parameters, routers included; the same rows, steps and rate",
        {
            "MoLORA": ("4 experts of rank 4 at every linear layer, a soft router", _light(4, 4, 4e-3)),
            "LoRA": ("one adapter of the rank that has as many parameters", _equal_one),
            "unrouted": ("4 experts of rank 4, all alike: without the router", _light(4, 4, 4e-3, routed=False)),
            "small": ("control, a handicap to LoRA: one adapter of rank 8", _light(1, 8, 4e-3)),
        },
        Pairs("MoLORA", "LoRA", "unrouted", "LoRA", "small"),
        part="lora",
    ),
    _claim(
        "mov-molora",
        "A routed mixture of vectors beats one vector.",
        "8 vectors and routers against one: 8 times the parameters; the same rows, steps and rate",
        {
            "MoV": ("8 vectors at every linear layer, a soft router", _light(8, 1, 2e-2, vectors=True)),
            "(IA)3": ("one vector", _light(1, 1, 2e-2, vectors=True)),
            "unrouted": ("8 vectors, all alike: without the router", _light(8, 1, 2e-2, vectors=True, routed=False)),
            "slow": ("control, a handicap to one vector: half the rate", _light(1, 1, 1e-2, vectors=True)),
        },
        Pairs("MoV", "(IA)3", "unrouted", "(IA)3", "slow"),
        part="vectors",
    ),
    _claim(
        "milora-prompt-routed",
        "Routed once per prompt, finished experts answer no worse than routed for every token.",
        "six experts, 2 serve; routers of equal size; the token-level ones, which learn more slowly, are trained for "
        "three times as many steps",
        {
            "per prompt": ("one route per prompt and block", _finished(lambda _draw: milora(train_experts=False))),
            "per token": ("one route per token and block, 300 batches", _finished(_by_token, longer=3)),
            "random": ("two experts at random for every token", _finished(_at_random)),
        },
        Pairs("per prompt", "per token", "random", "random", "per token"),
        "no worse",
    ),
    _claim(
        "x-lora",
        "A gate trained on mixed data over frozen adapters beats their uniform average.",
        "the same six experts; the gate's head reads a first pass of the base",
        {
            "X-LoRA": ("weights per token and layer from a trained head", _finished(_plan("x-lora", {"hidden": 128}))),
            "uniform": UNIFORM,
            "untrained": (
                "the head as it is drawn",
                _finished(lambda draw: _unlearned(_plan("x-lora", {"hidden": 128})(draw))),
            ),
            "three": THREE,
        },
        Pairs("X-LoRA", "uniform", "untrained", "uniform", "three"),
    ),
    _claim(
        "logo",
        "Adapters chosen per prompt by the size of their own answers rival a trained router, without any training.",
        "the same six experts; LoGo uses 2 a prompt, as the trained router does",
        {
            "LoGo": ("the two whose answers are largest at one layer", _finished(_plan("logo", {"top_k": 2}))),
            "trained": (
                "a router per block, trained on the same skills, one route per prompt",
                _finished(lambda _draw: milora(train_experts=False)),
            ),
            "uniform": UNIFORM,
            "random": ("two experts at random for every token", _finished(_at_random)),
        },
        Pairs("LoGo", "trained", "random", "random", "uniform"),
        "no worse",
    ),
    _claim(
        "psec",
        "Proportions that depend on the situation solve what needs different skills in different places.",
        "the same six experts; proportions from a network that reads the prompt, or one number an expert; 100 batches",
        {
            "PSEC": ("a network reads the prompt and says the proportions", _finished(_plan("psec"))),
            "fixed": (
                "one trained number an expert, whatever the prompt",
                _finished(_plan("scalearn", {"form": "uniform++"}), rate=2e-2),
            ),
            "uniform": UNIFORM,
            "three": THREE,
        },
        Pairs("PSEC", "fixed", "fixed", "uniform", "three"),
    ),
    _claim(
        "sa-mdkif",
        "A router over frozen skills beats the best single skill and their average.",
        "the same six experts; the gate reads the prompt; 100 batches",
        {
            "SA-MDKIF": ("a trained gate over the prompt's mean", _finished(_plan("sa-mdkif"))),
            "single or average": (
                "the better of the best single one and all alike, chosen on the test",
                lambda draw: min(_best_single(draw), UNIFORM[1](draw)),
            ),
            "untrained": ("the gate as it is drawn", _untrained("sa-mdkif")),
            "uniform": UNIFORM,
            "three": THREE,
        },
        Pairs("SA-MDKIF", "single or average", "untrained", "uniform", "three"),
    ),
    _claim(
        "self-moe",
        "Experts under one router that all layers share do better over all skills than one adapter for one skill.",
        "the same six experts, one serves a token; 100 batches",
        {
            "Self-MoE": ("one trained router for the whole network", _finished(_plan("self-moe"))),
            "single": SINGLE,
            "untrained": ("the router as it is drawn", _untrained("self-moe")),
            "uniform": UNIFORM,
            "three": THREE,
        },
        Pairs("Self-MoE", "single", "untrained", "uniform", "three"),
    ),
)
