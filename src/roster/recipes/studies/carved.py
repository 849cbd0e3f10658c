"""Dense checkpoints made into mixtures on disk: each composes to `(models, out, data=(), **settings) -> the plan`.

`roster convert` runs the same. What is written loads in plain transformers (Mixtral, Qwen2-MoE, GraniteMoeShared); what
a conversion keeps is proved there afterwards (`roster.convert.prove`).

- btx: models trained apart from one seed are the experts, all else their mean.
- mergeme: the same with a base, all else merged by TIES or DARE.
- nemotron-upcycling: copies of a block's shards in groups with equal router rows, the same function before training.
- cmoe: hidden units dealt out by what fires together; some always on.
- factorllm: slices of a block, and a router taught by the whole block.
- read-me: units that a domain uses most are its expert, what all domains use is always on; `data` one file a domain.
- ladimo: smaller experts distilled from the block, layer by layer; as many on duty as the router's weights say.
- upit: checkpoints of one run of tuning are experts, more are bred of the least similar ones.
- nexus: domain models are experts beside the seed's block; rows of the router are made of descriptions of domains.

Trains: nothing here, but for ladimo's distillation; btx and nemotron-upcycling are to be trained afterwards, the
routers of the others are fitted.
Source: see each recipe.
Differences: see `roster.convert.btx`, `.upcycling`, `.cmoe`, `.factorllm`, `.read_me`, `.nexus`,
`.upit`, `.ladimo`, `.mergeme`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from roster.recipes.recipe import Recipe

CARVED, COPIED = "tests/convert/test_carved.py", "tests/convert/test_convert.py"
DOMAINS = "tests/convert/test_domains.py"
BRED, DISTILLED = "tests/convert/test_bred.py", "tests/convert/test_distilled.py"


def _converted(to: str, **options: Any) -> Callable[..., Any]:
    def run(models: Sequence[str], out: str, data: Sequence[Any] = (), **settings: Any) -> Any:
        # By name and at use: conversions stand above the recipes, and they are listed without torch.
        room, weights = importlib.import_module("roster.convert.methods"), importlib.import_module("roster.weights")
        plan = room.plan_convert(room.Asked(to, models, data, **settings), options)
        weights.run(plan, out)
        return plan

    return run


def btx(top_k: int = 2, std: float = 0.02, seed: int = 0) -> Callable[..., Any]:
    """Branch-Train-MiX.

    Args:
        top_k: experts that a token gets.
        std: of the new routers' rows.
        seed: of their draw.
    """
    return _converted("btx", top_k=top_k, std=std, seed=seed)


def mergeme(
    shared: str = "ties", density: float = 0.8, scale: float = 1 / 3, top_k: int = 2, std: float = 0.02, seed: int = 0
) -> Callable[..., Any]:
    """MergeME.

    Args:
        shared: how tensors outside the blocks are merged: "ties", "dare" or "mean".
        density: share of each task vector that stays.
        scale: of the merged task vector.
        top_k: experts that a token gets.
        std: of the new routers' rows.
        seed: of their draw, and of DARE's.
    """
    return _converted("mergeme", shared=shared, density=density, scale=scale, top_k=top_k, std=std, seed=seed)


def nemotron_upcycling(
    copies: int = 4, shards: int = 2, groups: int = 2, std: float = 0.02, seed: int = 0
) -> Callable[..., Any]:
    """Granular upcycling with virtual groups.

    Args:
        copies: of each shard.
        shards: of a block.
        groups: of shards that a token gets.
        std: of the new routers' rows.
        seed: of their draw.
    """
    return _converted("nemotron-upcycling", copies=copies, shards=shards, groups=groups, std=std, seed=seed)


def cmoe(
    experts: int = 16,
    shared: int = 2,
    active: int = 2,
    markers: int = 10,
    router: str = "analytic",
    partition: str = "markers",
) -> Callable[..., Any]:
    """Carving by what fires together.

    Args:
        experts: parts of a block, the shared ones among them.
        shared: of them, always on.
        active: routed experts that a token gets.
        markers: units that are marked at a token.
        router: "analytic", "answers" or "random".
        partition: "markers" or "random".
    """
    return _converted(
        "cmoe", experts=experts, shared=shared, active=active, markers=markers, router=router, partition=partition
    )


def factorllm(experts: int = 4, top_k: int = 2, router: str = "taught") -> Callable[..., Any]:
    """Slices, and a router taught by the dense block.

    Args:
        experts: slices of a block.
        top_k: slices that a token gets.
        router: "taught" or "random".
    """
    return _converted("factorllm", experts=experts, top_k=top_k, router=router)


def read_me(share: float = 0.5) -> Callable[..., Any]:
    """Experts by domain.

    Args:
        share: of hidden units in a domain's mask.
    """
    return _converted("read-me", share=share)


def nexus(inside: int = 64, steps: int = 200, rate: float = 1e-2, seed: int = 0) -> Callable[..., Any]:
    """Rows of the router from descriptions.

    Args:
        inside: width of the projection.
        steps: of fitting it.
        rate: of learning it.
        seed: of its start.
    """
    return _converted("nexus", inside=inside, steps=steps, rate=rate, seed=seed)


def upit(
    experts: int = 8, top_k: int = 2, density: float = 0.5, router: str = "fitted", seed: int = 0
) -> Callable[..., Any]:
    """Experts bred of checkpoints.

    Args:
        experts: how many, the checkpoints among them.
        top_k: experts that a token gets.
        density: share of entries that DARE keeps.
        router: "fitted" or "random".
        seed: of what is drawn.
    """
    return _converted("upit", experts=experts, top_k=top_k, density=density, router=router, seed=seed)


def ladimo(
    experts: int = 4,
    slices: int = 2,
    top_k: int = 2,
    steps: int = 200,
    rate: float = 1e-3,
    batch: int = 256,
    enough: float = 0.9,
) -> Callable[..., Any]:
    """Distilled experts; `scratch=` names a folder for trained layers.

    Args:
        experts: of a layer.
        slices: an expert has the block's hidden units over this.
        top_k: experts that a token gets in training.
        steps: of each layer's training.
        rate: of learning.
        batch: tokens of a step.
        enough: share of the router's weight that a token's experts must have.
    """
    return _converted(
        "ladimo", experts=experts, slices=slices, top_k=top_k, steps=steps, rate=rate, batch=batch, enough=enough
    )


def _recipe(slug: str, title: str, source: str, compose: Callable[..., Any], claim: str, evidence: str) -> Recipe:
    return Recipe(slug, title, source, compose, "nothing", True, claim, evidence, kind="study")


RECIPES = (
    _recipe(
        "btx",
        "Branch-Train-MiX",
        "Sukhbaatar et al., 2024, Branch-Train-MiX: Mixing Expert LLMs into a Mixture-of-Experts LLM, arXiv:2403.07816",
        btx,
        "At equal tokens, domain models mixed and then trained are better than their average, than sparse upcycling "
        "and than training on.",
        COPIED,
    ),
    _recipe(
        "mergeme",
        "MergeME",
        "Zhou et al., 2025, MergeME: Model Merging Techniques for Homogeneous and Heterogeneous MoEs, arXiv:2502.00997",
        mergeme,
        "Shared weights merged by TIES or DARE lose less to interference than their mean; untrained, models weighed by "
        "the perplexity of the prompt beat even weights.",
        "tests/convert/test_mergeme.py",
    ),
    _recipe(
        "nemotron-upcycling",
        "Granular upcycling with virtual groups",
        "He et al., 2024, Upcycling Large Language Models into Mixture of Experts, arXiv:2410.07524",
        nemotron_upcycling,
        "Upcycled shards in virtual groups start as the dense model, and after equal training are better than it.",
        COPIED,
    ),
    _recipe(
        "cmoe",
        "CMoE",
        "Pei et al., 2025, CMoE: Fast Carving of Mixture-of-Experts for Efficient LLM Inference, arXiv:2502.04416",
        cmoe,
        "At half of the units, carving by what fires together with an analytic router loses less than a random split "
        "and than a random router.",
        CARVED,
    ),
    _recipe(
        "factorllm",
        "FactorLLM",
        "Zhao et al., 2024, FactorLLM: Factorizing Knowledge via Mixture of Experts for Large Language Models, "
        "arXiv:2408.11855",
        factorllm,
        "A router taught by the dense block comes nearer to it with half of the slices than a random one.",
        CARVED,
    ),
    _recipe(
        "read-me",
        "Read-ME",
        "Cai et al., 2024, Read-ME: Refactorizing LLMs as Router-Decoupled Mixture of Experts with System Co-Design, "
        "arXiv:2410.19123",
        read_me,
        "Experts of a dense model's most used units by domain lose less than random ones of the same size.",
        DOMAINS,
    ),
    _recipe(
        "nexus",
        "Nexus",
        "Gritsch et al., 2024, Nexus: Specialization meets Adaptability for Efficiently Training Mixture of Experts, "
        "arXiv:2408.15901",
        nexus,
        "An appended expert gets its domain's tokens by its description alone, and after short training is better than "
        "with a random row.",
        DOMAINS,
    ),
    _recipe(
        "upit",
        "UpIT (upcycling instruction tuning)",
        "Hui et al., 2024, Upcycling Instruction Tuning from Dense to Mixture-of-Experts via Parameter Merging, "
        "arXiv:2410.01610",
        upit,
        "Checkpoints of a run, and children of them, make better experts after equal training than copies of the last "
        "one, and rows fitted beforehand better routers than random ones.",
        BRED,
    ),
    _recipe(
        "ladimo",
        "LaDiMo",
        "Kim et al., 2024, LaDiMo: Layer-wise Distillation Inspired MoEfier, arXiv:2408.04278",
        ladimo,
        "At equal active parameters, as many experts as each layer needs lose less than one number for all layers.",
        DISTILLED,
    ),
)
