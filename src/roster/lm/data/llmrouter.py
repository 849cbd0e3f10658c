"""LLMRouter: 9 open models on 6,108 questions of 14 tasks, after removing the test questions that train contains.

Costs are derived, because the files carry prices but no calls: the prompt's characters / 4 at the input price plus an
answer of 200 tokens at the output price. Longer answers would move all costs alike, not their order.
"""

from __future__ import annotations

import numpy as np

from roster.lm.data.files import read_json
from roster.lm.prices import Price, cost_of_calls
from roster.lm.records import Records, unknown
from roster.lm.splits import deduplicate

ANSWER_TOKENS = 200.0


def load() -> Records:
    """Train and test, de-duplicated; models in alphabetical order, whatever order the files have."""
    rows, datasets, splits = [], [], []
    for split in ("train", "test"):
        part = read_json(f"llmrouter/{split}.json.xz")
        rows += part
        datasets += read_json(f"llmrouter/{split}.tasks.json.xz")
        splits += [split] * len(part)
    models = tuple(sorted(rows[0]["scores"]))
    prompts = tuple(row["question"] for row in rows)
    # By name: the two files list the models in different orders.
    score_NM = np.array([[row["scores"].get(model, np.nan) for model in models] for row in rows])
    listed = read_json("llmrouter/default_llm.json")
    prices = {model: Price(listed[model]["input_price"], listed[model]["output_price"]) for model in models}
    cost_NM = cost_of_calls(prompts, models, prices, np.full(score_NM.shape, ANSWER_TOKENS))
    return deduplicate(
        Records(
            name="llmrouter",
            prompts=prompts,
            models=models,
            score_NM=score_NM,
            cost_NM=cost_NM,
            delay_NM=unknown(*score_NM.shape),
            datasets=tuple(datasets),
            splits=tuple(splits),
            notes=(
                "costs are derived: prices per token x (characters of the prompt / 4 + an assumed answer of "
                f"{ANSWER_TOKENS:g} tokens)",
            ),
        )
    )
