"""MoV and MoLORA's own claim: mixtures of light experts beat one of equal size, and are on par with full fine-tuning.

The pocket base learns six skills at once: MoLORA with 4 experts of rank 4, one LoRA with the same number of
parameters, MoV with 8 vectors, one (IA)3 vector, and full fine-tuning, on the same rows and steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from evidence.checks.pocket_runs import SKILLS, TARGETS, answer_loss, finetune, learn, training_rows
from roster import pocket
from roster.adapters.attach import attach
from roster.library.fresh import fresh
from roster.recipes import find


def check(seed: int) -> dict[str, float]:
    """Test losses in nats per answer token, and how much each trains relative to full fine-tuning."""
    rows = training_rows(SKILLS, seed)
    figures: dict[str, float] = {}
    plans: dict[str, tuple[int, int, dict[str, Any], float]] = {
        # name: experts, rank, options, learning rate
        "MoLORA": (4, 4, {}, 4e-3),
        "LoRA": (1, _equal_rank(4, 4), {}, 4e-3),
        "MoV": (8, 1, {"experts": "vectors"}, 2e-2),
        "(IA)3": (1, 1, {"experts": "vectors"}, 2e-2),
    }
    for name, (count, rank, options, rate) in plans.items():
        torch.manual_seed(seed)
        base, tokenizer = pocket.load_base()
        library = fresh(base, [f"expert {i}" for i in range(count)], TARGETS, rank=rank, alpha=2.0 * rank)
        model = attach(base, library, find("mov-molora")(options), recipe="mov-molora", options=options)
        learn(model, tokenizer, rows, seed, rate)
        figures[name] = answer_loss(model, tokenizer, SKILLS)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        figures[f"{name}, share trained"] = trained / sum(
            p.numel() for n, p in model.named_parameters() if "roster" not in n
        )
    base, tokenizer = pocket.load_base()
    finetune(base, tokenizer, rows, seed, 1e-3)
    figures["full fine-tuning"] = answer_loss(base, tokenizer, SKILLS)
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """MoLORA and MoV beat their single counterparts on average, and MoLORA is within 10 % of full fine-tuning."""
    mean = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    mixtures = mean["MoLORA"] < mean["LoRA"] and mean["MoV"] < mean["(IA)3"]
    return bool(mixtures and mean["MoLORA"] < 1.1 * mean["full fine-tuning"])


def _equal_rank(experts: int, rank: int) -> int:
    """The rank of one LoRA with the parameters of a MoLORA of the pocket base, routers included."""
    base, _ = pocket.load_base()
    layers = [m for n, m in base.named_modules() if n.endswith("_proj")]
    one_rank = sum(layer.in_features + layer.out_features for layer in layers)
    routers = sum(layer.in_features for layer in layers) * experts
    return round((experts * rank * one_rank + routers) / one_rank)
