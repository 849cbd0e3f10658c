"""LLM Bandit's claim: learned from one score per prompt, one policy serves all preferences better than fixed models do.

Recorded answers (LLMRouter, 9 models, 14 tasks; four prompts in five, drawn by the ground, for training): the training
prompts come one by one, only the chosen model's score is seen; then the learned policy routes the others at four
preferences. Its utility there is quality less cost, with cost in shares of the span between cheapest and dearest.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from evidence.protocol.check import Contender, Draw, make_check
from evidence.protocol.declaration import Pairs, Statistic
from roster.lm import data
from roster.lm.encode import TfIdf
from roster.lm.judging import complete
from roster.lm.online import IdentityBandit
from roster.lm.records import Matrix, Records

PREFERENCES = (0.0, 0.1, 0.3, 0.6)
TRAINING = 0.8


@cache
def _records() -> Records:
    return complete(data.load("llmrouter").split("train"))


def _parts(draw: Draw) -> tuple[Records, Records]:
    pool = _records()
    order_N = np.random.default_rng([draw.ground, 1]).permutation(len(pool))
    train, test = (pool.rows(part) for part in np.split(order_N, [round(TRAINING * len(pool))]))
    arrives_N = np.random.default_rng([draw.luck, 2]).permutation(len(train))
    return train.rows(arrives_N[: 40 if draw.short else None]), test


def _bandit(blind: bool) -> Contender:
    def run(draw: Draw) -> float:
        train, test = _parts(draw)
        span = _span(train)
        if blind:
            order_N = np.random.default_rng([draw.luck, 3]).permutation(len(train))
            train = replace(train, prompts=tuple(train.prompts[n] for n in order_N))
        policy = IdentityBandit(seed=draw.luck, encoder=TfIdf(dimensions=32))
        policy.fit(train)
        estimates = policy.estimate(test.prompts)
        known = test.only(policy.models)
        return float(
            np.mean(
                [
                    _utility(known, (estimates.quality_NM - w / span * estimates.cost_NM).argmax(1), w / span)
                    for w in PREFERENCES
                ]
            )
        )

    return run


def _fixed(told: float) -> Contender:
    """The model that is best for the preference on all scores of the training prompts; for a share of the prompts the
    model that is best in truth."""

    def run(draw: Draw) -> float:
        train, test = _parts(draw)
        span = _span(train)
        told_N = np.random.default_rng([draw.luck, 4]).random(len(test)) < told
        found = []
        for w in PREFERENCES:
            train_NM, test_NM = (each.score_NM - w / span * each.cost_NM for each in (train, test))
            found.append(_utility(test, np.where(told_N, test_NM.argmax(1), train_NM.mean(0).argmax()), w / span))
        return float(np.mean(found))

    return run


def _utility(records: Records, chosen_N: Matrix, price: float) -> float:
    at_N = np.arange(len(records))
    return float((records.score_NM - price * records.cost_NM)[at_N, chosen_N].mean())


def _span(train: Records) -> float:
    return float(np.ptp(train.cost_NM.mean(0)))


CHECKS = (
    make_check(
        slug="llm-bandit",
        version=1,
        claim="Learned from one score per prompt, one policy serves all preferences better than the best fixed models.",
        ground="recorded: LLMRouter, nine models, four prompts in five to learn from, judged on the others",
        budget="the policy sees one score per prompt; the fixed model of each preference is chosen on all nine",
        contenders={
            "LLM Bandit": ("one policy for all preferences", _bandit(blind=False)),
            "fixed": ("the best model of each preference, on all scores", _fixed(0.0)),
            "blind": ("the same policy, learned beside shuffled prompts", _bandit(blind=True)),
            "told": ("control: fixed, but the best model in truth for a tenth of the prompts", _fixed(0.1)),
        },
        pairs=Pairs("LLM Bandit", "fixed", "blind", "told", "fixed"),
        statistic=Statistic("quality less cost, the mean over four preferences", "higher", 0.01),
    ),
)
