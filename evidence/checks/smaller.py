"""Claims about mixtures made smaller: a trained mixture at half of its experts, or of its experts' weights, without
training afterwards. What counts is the held-out loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from evidence.grounds.trained import carried_out, folder, loss, texts
from evidence.protocol.check import Check, Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.arena.moe.data import DOMAINS
from roster.compress import decide, make_method, open_mixture, plan_compress
from roster.compress.groups import Group, Regrouped
from roster.compress.method import Method
from roster.compress.seen import Seen

GROUND = (
    "a Mixtral of 4 layers, 16 experts of 32 units each, 2 serve, width 64, trained for 300 steps on code, manual and "
    "skills; 48 rows of 96 tokens to calibrate on"
)
TASK = ("code",)
OTHERS = tuple(name for name in DOMAINS if name not in TASK)
Change = Callable[[Any], None]


def left(
    method: str,
    to: str = "8",
    options: Mapping[str, Any] | None = None,
    *,
    change: Change | None = None,
    calibrate: tuple[str, ...] = DOMAINS,
    judge: tuple[str, ...] = DOMAINS,
) -> Contender:
    """Held-out loss of what is left of the ground's mixture.

    Args:
        method, to, options: of `roster compress`.
        change: of the method, by hand.
        calibrate, judge: on which text.
    """

    def run(draw: Draw) -> float:
        mixture = open_mixture(folder(draw))
        made = make_method(method, mixture, to, options)
        if change is not None:
            change(made)
        seen = texts(draw, calibrate)
        return loss(carried_out(plan_compress(made, decide(made, mixture, seen), to, seen)), judge, short=draw.short)

    return run


def _regrouped(rule: Callable[[Group], Group]) -> Change:
    """Every group is made by another rule."""

    def change(method: Method) -> None:
        decide_before = method.decide

        def decide_after(seen: Mapping[int, Seen]) -> dict[int, Regrouped]:
            found: Mapping[int, Regrouped] = decide_before(seen)
            return {at: replace(each, groups=tuple(map(rule, each.groups))) for at, each in found.items()}

        method.decide = decide_after  # type: ignore[method-assign]

    return change


def _plain(group: Group) -> Group:
    """An even mean, units in the order that they have."""
    return Group(group.members, (1.0,) * len(group.members), (None,) * len(group.members))


def _first(group: Group) -> Group:
    """The first one alone; the router's row stays that of the group."""
    return Group.alone(group.members[0])


def _claim(
    slug: str, claim: str, contenders: dict[str, tuple[str, Contender]], pairs: Pairs, effect: float = 0.005
) -> Check:
    return make_check(
        slug=slug,
        version=1,
        claim=claim,
        ground=GROUND,
        budget="equal size: 8 of 16 experts a layer, or half of the experts' weights at 0; nothing is trained",
        contenders=contenders,
        pairs=pairs,
        statistic=Statistic("held-out loss in nats per token", "lower", effect),
    )


USE: tuple[str, Contender] = ("the least used experts go", left("expert-use"))
SIX: tuple[str, Contender] = ("control, a handicap: the least used go, 6 stay", left("expert-use", "6"))
REAP: tuple[str, Contender] = ("experts of a small mean gate times norm go", left("reap"))

CHECKS = (
    _claim(
        "reap",
        "Dropping half of the experts by mean gate times norm of the answer costs less than merging them.",
        {
            "REAP": REAP,
            "merged": ("merged by use into the most used ones: M-SMoE", left("mc-smoe")),
            "by use": USE,
            "six": SIX,
        },
        Pairs("REAP", "merged", "by use", "by use", "six"),
    ),
    _claim(
        "ream",
        "Merging the experts that REAP would drop into the ones that it keeps loses less than dropping them.",
        {
            "REAM": ("merged into the kept ones, layer after layer, units aligned", left("ream")),
            "REAP": REAP,
            "unmerged": (
                "REAM's groups and router rows, of each group the kept expert",
                left("ream", change=_regrouped(_first)),
            ),
            "by use": USE,
            "six": SIX,
        },
        Pairs("REAM", "REAP", "unmerged", "by use", "six"),
    ),
    _claim(
        "mc-smoe",
        "Merging aligned experts by use, grouped by router logits, loses less than dropping the least used.",
        {
            "M-SMoE": ("merged by use into the most used ones, units aligned", left("mc-smoe")),
            "by use": USE,
            "plain": ("the same groups, even means, units not aligned", left("mc-smoe", change=_regrouped(_plain))),
            "six": SIX,
        },
        Pairs("M-SMoE", "by use", "plain", "by use", "six"),
    ),
    _claim(
        "uncurl",
        "Halving a mixture by clusters of a task's router logits loses less on the task than dropping the least used.",
        {
            "UNCURL": ("clusters on the task's texts, merged", left("uncurl", calibrate=TASK, judge=TASK)),
            "by use": ("the least used on the task's texts go", left("expert-use", calibrate=TASK, judge=TASK)),
            "other texts": ("clusters on other texts, merged", left("uncurl", calibrate=OTHERS, judge=TASK)),
            "six": (
                "control, a handicap: the least used go, 6 stay",
                left("expert-use", "6", calibrate=TASK, judge=TASK),
            ),
        },
        Pairs("UNCURL", "by use", "other texts", "by use", "six"),
    ),
    _claim(
        "moe-pruner",
        "At half of the weights, scores with the router's weights lose less than Wanda's.",
        {
            "gated": ("|W| times the norm of gated inputs", left("moe-pruner", "50%")),
            "Wanda": ("|W| times the norm of inputs", left("moe-pruner", "50%", {"score": "wanda"})),
            "magnitude": ("|W|", left("moe-pruner", "50%", {"score": "magnitude"})),
            "more": ("control: |W| at 60 % of the weights", left("moe-pruner", "60%", {"score": "magnitude"})),
        },
        Pairs("gated", "Wanda", "Wanda", "more", "magnitude"),
        0.002,
    ),
)
