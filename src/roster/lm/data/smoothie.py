"""Smoothie's tutorial data: summaries of five models without articles, references or scores; label-free use only."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np

from roster.errors import RosterError
from roster.lm.data.sources import sources
from roster.lm.data.texts import read
from roster.lm.records import Records, unknown


def load(texts: bool = True) -> Records:
    """5 models x 1,000 summaries; every score is missing, the prompts are only numbered."""
    if not texts:
        raise RosterError("'smoothie-cnn' is nothing but texts: run `roster lm fetch smoothie-cnn`")
    prompts, answers = read("smoothie-cnn")
    models = tuple(PurePosixPath(file.path).stem.removesuffix("_test") for file in sources()["smoothie-cnn"].files)
    shape = (len(prompts), len(models))
    return Records(
        name="smoothie-cnn",
        prompts=tuple(prompts),
        models=models,
        score_NM=unknown(*shape),
        cost_NM=unknown(*shape),
        delay_NM=unknown(*shape),
        datasets=("cnn_dailymail",) * shape[0],
        splits=("train",) * shape[0],
        answer_NM=np.array(answers, dtype=object),
        notes=("there are no scores, costs or prompts: for label-free estimates only",),
    )
