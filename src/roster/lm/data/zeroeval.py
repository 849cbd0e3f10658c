"""ZeroEval: final answers of many models on CRUX (output prediction of Python functions) and GSM8K.

`crux` and `gsm8k` have all models and no prices: their cost is the length of the answer in tokens (characters / 4).
`priced` has both data sets and the models that have a list price (zeroeval/prices.json): its cost is in dollars, from
the recorded length of each answer.
"""

from __future__ import annotations

import io

import numpy as np

from roster.lm.data.files import read_bytes, read_json, read_lines
from roster.lm.prices import CHARS_PER_TOKEN, Price, cost_of_calls
from roster.lm.records import Records, unknown
from roster.lm.splits import deduplicate, split_at_random


def crux() -> Records:
    """51 models x 800 questions."""
    return split_at_random(deduplicate(_all_models("crux")))


def gsm8k() -> Records:
    """43 models x 1,319 questions."""
    return split_at_random(deduplicate(_all_models("gsm")))


def priced() -> Records:
    """The models with a list price on both data sets; random splits, 60/20/20."""
    listed = read_json("zeroeval/prices.json")["prices"]
    models = tuple(sorted(listed))
    parts = [_all_models(task).only(models) for task in ("crux", "gsm")]
    prompts = tuple(prompt for part in parts for prompt in part.prompts)
    written_NM = np.concatenate([part.cost_NM for part in parts])
    prices = {model: Price(**listed[model]) for model in models}
    records = Records(
        name="zeroeval",
        prompts=prompts,
        models=models,
        score_NM=np.concatenate([part.score_NM for part in parts]),
        cost_NM=cost_of_calls(prompts, models, prices, written_NM),
        delay_NM=unknown(*written_NM.shape),
        datasets=tuple(name for part in parts for name in part.datasets),
        splits=("train",) * len(prompts),
        answer_NM=np.concatenate([part.answer_NM for part in parts]),
        notes=(
            "costs: list prices of the providers (end of 2024) x (characters of prompt and recorded answer / 4)",
            "splits are random, 60/20/20 within each data set",
        ),
    )
    return split_at_random(deduplicate(records))


def _all_models(task: str) -> Records:
    with np.load(io.BytesIO(read_bytes(f"zeroeval/{task}.npz")), allow_pickle=False) as stored:
        models = tuple(str(model) for model in stored["models"])
        ids = [str(each) for each in stored["ids"]]
        score_NM = stored["correct"].T.astype(float)
        tokens_NM = stored["out_chars"].T / CHARS_PER_TOKEN
    asked = {row["id"]: row["question"] for row in read_lines(f"zeroeval/{task}.queries.jsonl.xz")}
    answers = read_json(f"zeroeval/{task}.answers.json.xz")
    answer_NM = np.array([answers[model] for model in models], dtype=object).T
    dataset = {"crux": "crux", "gsm": "gsm8k"}[task]
    return Records(
        name=f"zeroeval-{dataset}",
        prompts=tuple(asked[each] for each in ids),
        models=models,
        score_NM=score_NM,
        cost_NM=tokens_NM,
        delay_NM=unknown(*score_NM.shape),
        datasets=(dataset,) * len(ids),
        splits=("train",) * len(ids),
        currency="tokens written",
        answer_NM=answer_NM,
        notes=("no prices in the data: the cost is the length of the answer in tokens (characters / 4)",),
    )
