"""MiLoRA's own claim: routing once per prompt is as good as routing every token, far better than at random, and asks
its routers once per generated sequence.

Routers over the finished pocket experts are trained on six skills: by the prompt, and by the token with all else
equal (a linear score at each block, top 2). Random routing stands beside them.
"""

from __future__ import annotations

import numpy as np
import torch

from evidence.checks.pocket_runs import SKILLS, answer_loss, learn, training_rows
from roster import pocket
from roster.adapters.attach import attach
from roster.adapters.mixing import Mixing, Site
from roster.balance import LoadBalancing
from roster.library import Library
from roster.pocket.skills import examples
from roster.recipes.milora import milora
from roster.routed.model import routers
from roster.router import Router
from roster.score import Linear, Random
from roster.score.prompt_pooled import PromptPooled
from roster.select import TopK


def check(seed: int) -> dict[str, float]:
    """Test losses in nats per answer token, and router calls per generated sequence."""

    def by_token(site: Site) -> Router:
        return Router(Linear(site.width, site.num_experts), TopK(2), [LoadBalancing(0.01)])

    def at_random(site: Site) -> Router:
        return Router(Random(site.num_experts, seed=1000 * seed + site.index), TopK(2))

    mixings = {
        "per prompt": milora(train_experts=False),
        "per token": Mixing(by_token, at="block", trains=frozenset({"router"})),
        "random": Mixing(at_random, at="block"),
    }
    rows = training_rows(SKILLS, seed)
    figures = {}
    for name, mixing in mixings.items():
        torch.manual_seed(seed)
        base, tokenizer = pocket.load_base()
        library = Library.read(pocket.experts_path())
        model = attach(base, Library({skill: library[skill] for skill in SKILLS}), mixing)
        if mixing.trains:
            learn(model, tokenizer, rows, seed, 5e-3)
        figures[name] = answer_loss(model, tokenizer, SKILLS)
        if name == "per prompt":
            figures["router calls per block and sequence"] = _calls(model, tokenizer)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """Within 10 % of per-token routing on average, better than random at every seed, and one call."""
    mean = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    beats_random = all(each["per prompt"] < each["random"] for each in figures)
    once = all(each["router calls per block and sequence"] == 1 for each in figures)
    return bool(mean["per prompt"] <= 1.1 * mean["per token"] and beats_random and once)


def _calls(model, tokenizer) -> float:
    """How often a block's scores are computed while one answer is generated."""
    calls = 0

    def count(*_) -> None:
        nonlocal calls
        calls += 1

    scores = [router.score.inner for _, router in routers(model) if isinstance(router.score, PromptPooled)]
    hooks = [score.register_forward_hook(count) for score in scores]
    prompt = examples(SKILLS[0], "test", 1)[0].prompt
    model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=8, min_new_tokens=8, do_sample=False)
    for hook in hooks:
        hook.remove()
    return calls / len(scores)
