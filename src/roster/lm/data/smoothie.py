"""Smoothie's tutorial data: summaries of five models without articles, references or scores; label-free use only."""

from __future__ import annotations

import numpy as np

from roster.lm.data.files import read_json
from roster.lm.records import Records, unknown


def load() -> Records:
    """5 models x 1,000 summaries; every score is missing, the prompts are only numbered."""
    generations = read_json("smoothie/cnn_dailymail.generations.json.xz")
    models = tuple(sorted(generations))
    answer_NM = np.array([generations[model] for model in models], dtype=object).T
    count = len(answer_NM)
    return Records(
        name="smoothie-cnn",
        prompts=tuple(f"CNN/DailyMail test article {n}" for n in range(count)),
        models=models,
        score_NM=unknown(count, len(models)),
        cost_NM=unknown(count, len(models)),
        delay_NM=unknown(count, len(models)),
        datasets=("cnn_dailymail",) * count,
        splits=("train",) * count,
        answer_NM=answer_NM,
        notes=("there are no scores, costs or prompts: for label-free estimates only",),
    )
