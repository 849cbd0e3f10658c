"""DA-MoE's own claim: tokens that matter get more experts; it beats top-1 and equals top-K with fewer calls of experts.

Toy: rows of 12 tokens, 10 fillers and two that bear a label, `(a b + a) mod 8` of their two numbers, which is asked for
at the last position. A small language model; all contenders have 8 experts of 16 hidden units, of which a token gets 1,
4, or as many as its attention gives it, at most 4.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from roster.arena.moe.pretrain import Terms, small_model
from roster.moe.replacing import replace
from roster.router import Router
from roster.train.schedule import advance

NUMBERS, FILLERS, LENGTH, STEPS = 8, 40, 12, 400
TERMS = Terms(width=32, layers=2, heads=2, hidden=32, length=LENGTH + 1)
CONTENDERS = {
    "top-1": ("switch-transformer", {"num_experts": 8}, 16),
    "top-4": ("gshard-top2", {"k": 4}, 64),
    "DA-MoE": ("da-moe", {"most": 4, "per_token": 2}, 32),
}


def check(seed: int) -> dict[str, float]:
    """Accuracies, and experts per token."""
    figures = {}
    for name, (recipe, options, hidden) in CONTENDERS.items():
        torch.manual_seed(seed)
        model = replace(small_model(TERMS, seed), recipe, options=options, hidden=hidden)
        _train(model)
        ids_BS, label_B = _draw(1024)
        count_BS = []
        routers = [module for module in model.modules() if isinstance(module, Router)]
        hook = routers[0].register_forward_hook(
            lambda _m, _args, route, kept=count_BS: kept.append(route.chosen().sum(1).float())
        )
        with torch.no_grad():
            predicted_B = model(input_ids=ids_BS, use_cache=False).logits[:, -1, :NUMBERS].argmax(1)
        hook.remove()
        figures[f"{name}: accuracy"] = float((predicted_B == label_B).float().mean())
        if name == "DA-MoE":
            bears_T = ((ids_BS >= NUMBERS) & (ids_BS < 3 * NUMBERS)).flatten()
            figures["experts per label-bearing token"] = float(count_BS[0][bears_T].mean())
            figures["experts per filler"] = float(count_BS[0][~bears_T].mean())
            figures["experts per token"] = float(count_BS[0].mean())
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """At every seed label-bearing tokens get more experts than fillers and a token fewer than 4; the mean accuracy is
    above that of top-1 and at most one point below that of top-4.
    """
    means = {name: np.mean([each[name] for each in figures]) for name in figures[0]}
    more = all(each["experts per label-bearing token"] > each["experts per filler"] for each in figures)
    fewer = all(each["experts per token"] < 4 for each in figures)
    better = means["DA-MoE: accuracy"] > means["top-1: accuracy"]
    return bool(more and fewer and better and means["DA-MoE: accuracy"] >= means["top-4: accuracy"] - 0.01)


def _draw(rows: int) -> tuple[Tensor, Tensor]:
    """Token ids, the last of which asks for the label; ids below 8 are labels, the next 16 numbers of either kind."""
    ids_BS = torch.randint(3 * NUMBERS + 1, 3 * NUMBERS + 1 + FILLERS, (rows, LENGTH + 1))
    first_B, second_B = torch.randint(NUMBERS, (2, rows))
    places_B2 = torch.rand(rows, LENGTH).topk(2, dim=1).indices
    ids_BS.scatter_(1, places_B2, torch.stack([NUMBERS + first_B, 2 * NUMBERS + second_B], dim=1))
    ids_BS[:, -1] = 3 * NUMBERS
    return ids_BS, (first_B * second_B + first_B) % NUMBERS


def _train(model) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, 4e-4)
    model.train()
    for step in range(STEPS):
        ids_BS, label_B = _draw(64)
        output = model(input_ids=ids_BS, use_cache=False)
        loss = F.cross_entropy(output.logits[:, -1, :NUMBERS], label_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        advance(model, (step + 1) / STEPS)
    model.eval()
