"""MoDEM's claim: specialists behind a classifier of the domain beat one general model of the same cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evidence.checks.simulated_models import KINDS, World, choices, mean_of
from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm.records import Matrix, Records
from roster.recipes import find

OWN, ELSEWHERE, GENERAL, LEARN = 0.8, 0.45, 0.65, 80


def _world(draw: Draw) -> World:
    """A specialist per kind and a general model; what each is worth varies a little with the ground."""
    rng = np.random.default_rng([draw.ground, 9])
    chance_KM = np.full((len(KINDS), len(KINDS) + 1), ELSEWHERE)
    chance_KM[np.arange(len(KINDS)), np.arange(len(KINDS))] = OWN
    chance_KM[:, -1] = GENERAL
    chance_KM = np.clip(chance_KM + rng.normal(0, 0.03, chance_KM.shape), 0, 1)
    return World(chance_KM, np.full(len(KINDS) + 1, 0.1), draw.luck)


def _by_domain(shuffled: bool) -> Contender:
    def run(draw: Draw) -> float:
        world = _world(draw)
        learn, judge = world.learn(LEARN), world.judge()
        if shuffled:  # the same classifier of domains that are none
            names = np.random.default_rng(draw.luck).permutation(np.array(learn.datasets))
            learn = _renamed(learn, tuple(names.tolist()))
        return mean_of(judge.score_NM, choices(find("modem").compose().fit(learn), judge))

    return run


def _renamed(records: Records, names: tuple[str, ...]) -> Records:
    return replace(records, datasets=names)


def _fixed(choose: str) -> Contender:
    def run(draw: Draw) -> float:
        judge = _world(draw).judge()
        kind_N: Matrix = np.array([KINDS.index(name) for name in judge.datasets])
        return mean_of(judge.score_NM, np.full(len(judge), len(KINDS)) if choose == "general" else kind_N)

    return run


CHECKS = (
    make_check(
        slug="modem",
        version=1,
        claim="Specialists behind a classifier of the domain are right more often than a general model of equal cost.",
        ground="simulated: a specialist for each of six kinds of prompts (0.8 there, 0.45 elsewhere, "
        "each give or take 0.03) and a general model (0.65); 80 prompts of each to learn from, judged on 720 others",
        budget="every model costs the same",
        contenders={
            "MoDEM": ("specialists found from the records, behind the classifier", _by_domain(shuffled=False)),
            "general": ("the general model", _fixed("general")),
            "shuffled": ("MoDEM with the names of the domains shuffled", _by_domain(shuffled=True)),
            "told": ("control: the domain is told", _fixed("told")),
        },
        pairs=Pairs("MoDEM", "general", "shuffled", "told", "general"),
        statistic=Statistic("true chance that the chosen model is right", "higher", 0.02),
    ),
)
