"""LLM Bandit: learned from one score per prompt, one policy serves all preferences better than fixed models do.

Recorded answers (LLMRouter, 9 models, 14 tasks; four prompts in five, drawn anew for every seed, for training): the
training prompts come one by one, only the chosen model's score is seen; then the learned policy routes the others at
four preferences. Its utility there, quality less cost, with cost in shares of the span between cheapest and dearest,
stands beside a bandit that does not read the prompt (Thompson sampling, told the preference and trained once for each),
the model that is best on all scores of the training prompts, a uniform choice, and the oracle. Then the model with the
best mean is left out of training and added from 50 probes. The published test split has another mix of tasks; its
figures decide nothing.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from roster.lm import data
from roster.lm.encode import TfIdf
from roster.lm.judging import complete
from roster.lm.online import Belief, IdentityBandit
from roster.lm.records import Matrix, Records

PREFERENCES = (0.0, 0.1, 0.3, 0.6)
PROBES, TRAINING = 50, 0.8


def check(seed: int) -> dict[str, float]:
    """Utilities on held-out prompts, mean over the preferences."""
    pool, published = _records()
    order_N = np.random.default_rng(seed).permutation(len(pool))
    train, test = (pool.rows(part) for part in np.split(order_N, [round(TRAINING * len(pool))]))
    policy = _fit(train, seed)
    figures = _beside(policy, train, test, seed)
    best = train.models[int(train.score_NM.mean(0).argmax())]
    late = _fit(train.only(tuple(model for model in train.models if model != best)), seed)
    span = _span(train)
    without = _gains(late, test, span)
    late.add_model(best, train.rows(np.arange(PROBES)))
    fixed, _ = _fixed(train, published)
    return figures | {
        "without the best model: utility": float(np.mean(without)),
        "the best model added from 50 probes: utility": float(np.mean(_gains(late, test, span))),
        "published test split: utility, LLM bandit": float(np.mean(_gains(policy, published, span))),
        "published test split: utility, best fixed model": float(np.mean(fixed)),
    }


def shown(figures: list[dict[str, float]]) -> bool:
    """In the mean over seeds, utility is above the best fixed model's and the plain bandit's; the added model helps."""
    mean = {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}
    mine = mean["utility, LLM bandit"]
    return (
        mine > mean["utility, best fixed model"]
        and mine > mean["utility, bandit without context"]
        and mean["the best model added from 50 probes: utility"] > mean["without the best model: utility"]
    )


def _beside(policy: IdentityBandit, train: Records, test: Records, seed: int) -> dict[str, float]:
    span = _span(train)
    gains = _gains(policy, test, span)
    fixed, uniform = _fixed(train, test)
    plain, oracle = [], []
    for w in PREFERENCES:
        train_NM, test_NM = (each.score_NM - w / span * each.cost_NM for each in (train, test))
        plain.append(test_NM[:, _plain(train_NM, seed)].mean())
        oracle.append(test_NM.max(1).mean())
    return {
        "utility, LLM bandit": float(np.mean(gains)),
        "utility, best fixed model": float(np.mean(fixed)),
        "utility, bandit without context": float(np.mean(plain)),
        "utility, uniform": float(np.mean(uniform)),
        "utility, oracle": float(np.mean(oracle)),
        "lowest gain over the best fixed model": float(np.min(np.array(gains) - fixed)),
    }


def _fixed(train: Records, test: Records) -> tuple[list[float], list[float]]:
    """Utility on the test per preference: of the model that is best on the training prompts, and of all equally."""
    fixed, uniform = [], []
    for w in PREFERENCES:
        train_NM, test_NM = (each.score_NM - w / _span(train) * each.cost_NM for each in (train, test))
        fixed.append(float(test_NM[:, train_NM.mean(0).argmax()].mean()))
        uniform.append(float(test_NM.mean()))
    return fixed, uniform


def _span(train: Records) -> float:
    return float(np.ptp(train.cost_NM.mean(0)))


@cache
def _records() -> tuple[Records, Records]:
    records = data.load("llmrouter")
    return complete(records.split("train")), complete(records.split("test"))


def _fit(train: Records, seed: int) -> IdentityBandit:
    bandit = IdentityBandit(seed=seed, encoder=TfIdf(dimensions=32))
    bandit.fit(train)
    return bandit


def _gains(policy: IdentityBandit, test: Records, span: float) -> list[float]:
    """Utility on the test at each preference; the models that the policy does not know are not chosen."""
    estimates = policy.estimate(test.prompts)
    known = test.only(policy.models)
    at_N = np.arange(len(test))
    gains = []
    for w in PREFERENCES:
        chosen_N = (estimates.quality_NM - w / span * estimates.cost_NM).argmax(1)
        gains.append(float((known.score_NM - w / span * known.cost_NM)[at_N, chosen_N].mean()))
    return gains


def _plain(gain_NM: Matrix, seed: int) -> int:
    """The arm that Thompson sampling without context thinks best after one pass."""
    rng = np.random.default_rng(seed)
    beliefs = [Belief(1, prior=0.5) for _ in range(gain_NM.shape[1])]
    one = np.ones(1)
    for gain_M in gain_NM:
        arm = int(np.argmax([rng.normal(b.mean(one), 0.2 * b.width(one)) for b in beliefs]))
        beliefs[arm].observe(one, float(gain_M[arm]))
    return int(np.argmax([b.mean(one) for b in beliefs]))
