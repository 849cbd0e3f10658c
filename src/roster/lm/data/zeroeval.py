"""ZeroEval: final answers of many models on CRUX (output prediction of Python functions) and GSM8K.

`crux` and `gsm8k` have all models and no prices: their cost is the length of the answer in tokens (characters / 4).
`priced` has both data sets and the models that have a list price (zeroeval/prices.json): its cost is in dollars, from
the recorded length of each answer. Of the answers only is known which are equal.
"""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np

from roster.lm.data.figures import read
from roster.lm.prices import Price, cost_of_tokens
from roster.lm.records import Records, unknown
from roster.lm.splits import deduplicate, split_at_random


def crux(texts: bool = True) -> Records:
    """51 models x 800 questions."""
    return split_at_random(deduplicate(_all_models("zeroeval-crux", texts)))


def gsm8k(texts: bool = True) -> Records:
    """43 models x 1,319 questions."""
    return split_at_random(deduplicate(_all_models("zeroeval-gsm8k", texts)))


def priced(texts: bool = True) -> Records:
    """The models with a list price on both data sets; random splits, 60/20/20."""
    listed = json.loads((files("roster.lm.data") / "zeroeval/prices.json").read_text(encoding="utf-8"))["prices"]
    models = tuple(sorted(listed))
    names = ("zeroeval-crux", "zeroeval-gsm8k")
    parts = [_all_models(name, texts).only(models) for name in names]
    prompts = tuple(prompt for part in parts for prompt in part.prompts)
    read_N = np.concatenate([read(name, texts=False).read_N for name in names])
    written_NM = np.concatenate([part.cost_NM for part in parts])
    prices = {model: Price(**listed[model]) for model in models}
    answers = [part.answer_NM for part in parts if part.answer_NM is not None]
    records = Records(
        name="zeroeval",
        prompts=prompts,
        models=models,
        score_NM=np.concatenate([part.score_NM for part in parts]),
        cost_NM=cost_of_tokens(read_N, models, prices, written_NM),
        delay_NM=unknown(*written_NM.shape),
        datasets=tuple(name for part in parts for name in part.datasets),
        splits=("train",) * len(prompts),
        answer_NM=np.concatenate(answers),
        worded=False,
        notes=(
            "costs: list prices of the providers (end of 2024) x (characters of prompt and recorded answer / 4)",
            "splits are random, 60/20/20 within each data set",
        ),
    )
    return split_at_random(deduplicate(records))


def _all_models(name: str, texts: bool) -> Records:
    found = read(name, texts)
    assert found.written_NM is not None  # Both collections have the lengths.
    return Records(
        name=name,
        prompts=found.prompts,
        models=found.models,
        score_NM=found.score_NM,
        cost_NM=found.written_NM,
        delay_NM=unknown(*found.score_NM.shape),
        datasets=found.datasets,
        splits=found.splits,
        currency="tokens written",
        answer_NM=found.answers,
        worded=found.worded,
        notes=("no prices in the data: the cost is the length of the answer in tokens (characters / 4)",),
    )
