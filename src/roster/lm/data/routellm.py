"""RouteLLM's evaluation: a weak and a strong model on MMLU, GSM8K and MT-Bench.

The cost is upstream's: 1 for a call to the strong model, 0 for the weak one. Questions that upstream found in its
routers' training data are dropped, as upstream does.
"""

from __future__ import annotations

import numpy as np

from roster.lm.data.figures import read
from roster.lm.records import Records, unknown
from roster.lm.splits import deduplicate, split_at_random

WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
CURRENCY = "calls to the strong model"


def gsm8k(texts: bool = True) -> Records:
    """1,307 grade-school problems, with both responses where the texts are read; random splits."""
    return _records("routellm-gsm8k", texts)


def mmlu(texts: bool = True) -> Records:
    """13,932 multiple-choice questions of 57 subjects (105 repeats removed), correctness only; random splits."""
    return _records("routellm-mmlu", texts)


def mt_bench(texts: bool = True) -> Records:
    """72 open questions; the score is the mean of both turns, divided by 10."""
    return _records("routellm-mt-bench", texts)


def _records(name: str, texts: bool) -> Records:
    found = read(name, texts)
    records = Records(
        name=name,
        prompts=found.prompts,
        models=found.models,
        score_NM=found.score_NM,
        cost_NM=np.tile([0.0, 1.0], (len(found.prompts), 1)),
        delay_NM=unknown(*found.score_NM.shape),
        datasets=found.datasets,
        splits=found.splits,
        currency=CURRENCY,
        answer_NM=found.answers,
        worded=found.worded,
        notes=("the cost is the share of calls to the strong model; splits are random, 60/20/20",),
    )
    return split_at_random(deduplicate(records))
