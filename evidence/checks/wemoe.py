"""WEMoE's claim on the very small language models of `evidence.checks.merged`: blocks merged anew for each row beat
blocks merged once.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from evidence.checks.merged import FOUR, GROUND, LEARNED, WHOLE, best_coefficient, loss_of, unasked, whole_experts
from evidence.grounds.relatives import folder, loss
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.merge.asked import make_config
from roster.merge.learned import Asked
from roster.merge.methods import find_method
from roster.merge.opening import open_models
from roster.merge.plan import plan_merge
from roster.weights import run as carry_out

RATE = 0.01


def _mixture(draw: Draw, steps: int, at: Path) -> Any:
    """The mixture of the ground's base and its four models, which lies below a folder while it is asked."""
    base, models = str(folder(draw, whole=True)), [str(folder(draw, task, whole=True)) for task in FOUR]
    settings = {"steps": steps, "rate": RATE, "seed": draw.luck}
    opened = open_models([base, *models])
    learner = find_method("wemoe-merging").learner
    assert learner is not None
    whose = {name: opened[name] for name in models}
    learned: Any = learner(**settings).begin(Asked(whose, unasked(draw), opened[base], at))
    carry_out(plan_merge(make_config("wemoe-merging", models, base, settings), learned=learned), learned.trunk)
    learned.learn()
    return learned.tuned()[0]


def _by_row(steps: int = LEARNED) -> Contender:
    """Loss on the four tasks of blocks that are merged for each row."""

    def run(draw: Draw) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            return loss(_mixture(draw, draw.steps(steps) if steps else 0, Path(scratch)), draw, FOUR)

    return run


STATIC = loss_of("adamerging", unasked, whole=True, steps=LEARNED, rate=RATE)


def _coefficients(draw: Draw) -> float:
    """The better of one coefficient for all, the best on the test, and static ones by entropy."""
    return min(best_coefficient(draw), STATIC(draw))


CHECKS = (
    make_check(
        slug="wemoe-merging",
        version=2,  # as of AdaMerging: the models of version 1 had learned answers alone
        claim="Blocks merged for each input, gates tuned without labels, beat task arithmetic and static coefficients.",
        ground=GROUND.format("four") + WHOLE,
        budget=f"the base and four task vectors, or one merged model; 64 prompts a task without answers, {LEARNED} "
        f"steps at a rate of {RATE}",
        contenders={
            "WEMoE": ("gates that read each row's prompt, tuned by the entropy of prompts", _by_row()),
            "coefficients": (
                "the better of task arithmetic's best coefficient on the test, and static ones for each tensor by the "
                "same entropy",
                _coefficients,
            ),
            "static": ("static coefficients for each tensor by the same entropy: the row is not read", STATIC),
            "experts": ("control: every task by its own model", whole_experts),
        },
        pairs=Pairs("WEMoE", "coefficients", "static", "experts", "coefficients"),
        statistic=Statistic("nats per letter of answers, the mean of the tasks", "lower", 0.05),
    ),
)
