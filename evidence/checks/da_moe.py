"""DA-MoE's claim: with experts in proportion to the attention that a token gets, it beats a fixed number of experts.

Rows of 12 tokens, 10 fillers and two that bear a label, `(a b + a) mod 8` of their two numbers, which is asked for at
the last position. A small language model, trained by the loss of that answer and the routers' own losses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.arena.moe.pretrain import Terms, optimise, small_model
from roster.moe.replacing import replace

NUMBERS, FILLERS, LENGTH, STEPS = 8, 40, 12, 300
TERMS = Terms(width=32, layers=2, heads=2, hidden=32, length=LENGTH + 2)


def _accuracy(recipe: str, options: dict[str, Any], hidden: int, more: float = 1.0) -> Contender:
    """Share of right answers. Every ground is the same task; rows and weights are luck."""

    def run(draw: Draw) -> float:
        torch.manual_seed(draw.luck + 1_000)
        model = replace(small_model(TERMS, draw.luck), recipe, options=options, hidden=hidden)

        def batch(_step: int) -> dict[str, Tensor]:
            ids_BS, label_B = _draw(64)
            ids_BS = torch.cat([ids_BS, label_B[:, None]], 1)
            labels_BS = torch.full_like(ids_BS, -100)
            labels_BS[:, -1] = label_B
            return {"input_ids": ids_BS, "labels": labels_BS}

        optimise(model, batch, draw.steps(round(STEPS * more)), 4e-3)
        torch.manual_seed(draw.ground + 500_000)
        ids_BS, label_B = _draw(2048)
        with torch.no_grad():
            said_B = model.eval()(input_ids=ids_BS, use_cache=False).logits[:, -1, :NUMBERS].argmax(1)
        return float((said_B == label_B).float().mean())

    return run


def _draw(rows: int) -> tuple[Tensor, Tensor]:
    """Token ids, the last of which asks for the label; ids below 8 are labels, the next 16 numbers of either kind."""
    ids_BS = torch.randint(3 * NUMBERS + 1, 3 * NUMBERS + 1 + FILLERS, (rows, LENGTH + 1))
    first_B, second_B = torch.randint(NUMBERS, (2, rows))
    places_B2 = torch.rand(rows, LENGTH).topk(2, dim=1).indices
    ids_BS.scatter_(1, places_B2, torch.stack([NUMBERS + first_B, 2 * NUMBERS + second_B], dim=1))
    ids_BS[:, -1] = 3 * NUMBERS
    return ids_BS, (first_B * second_B + first_B) % NUMBERS


TOP2: dict[str, Any] = {"num_experts": 8, "k": 2}

CHECKS = (
    make_check(
        slug="da-moe",
        version=1,
        claim="With experts in proportion to the attention a token gets, more answers are right than with two each.",
        ground="a language model of two layers of width 32 on rows of 12 tokens of which two bear the answer; 300 "
        "steps of 64 rows",
        budget="8 experts of 16 units; 2 to a token, or from 1 to 4, somewhat above 2 on average; balance 0.01 for all",
        contenders={
            "DA-MoE": (
                "1 to 4 experts, by the attention received",
                _accuracy("da-moe", {"most": 4, "per_token": 2}, 32),
            ),
            "top-2": ("2 for every token", _accuracy("gshard-top2", TOP2, 32)),
            "top-1": ("one", _accuracy("gshard-top2", {"num_experts": 8, "k": 1}, 16)),
            "top-4": ("four, twice the arithmetic", _accuracy("gshard-top2", {"num_experts": 8, "k": 4}, 64)),
            "longer": ("control: top-2, a tenth more steps", _accuracy("gshard-top2", TOP2, 32, more=1.1)),
        },
        pairs=Pairs("DA-MoE", "top-2", "top-2", "longer", "top-2"),
        statistic=Statistic("share of right answers", "higher", 0.02),
    ),
)
