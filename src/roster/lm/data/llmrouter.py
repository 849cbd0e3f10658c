"""LLMRouter: 9 open models on 6,108 questions of 14 tasks, before removing the test questions that train contains.

Costs are derived, because the files carry prices but no calls: the prompt's characters / 4 at the input price plus an
answer of 200 tokens at the output price. Longer answers would move all costs alike, not their order.
"""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np

from roster.lm.data.figures import read
from roster.lm.prices import Price, cost_of_tokens
from roster.lm.records import Records, unknown
from roster.lm.splits import deduplicate

ANSWER_TOKENS = 200.0


def load(texts: bool = True) -> Records:
    """Train and test, de-duplicated; models in alphabetical order."""
    found = read("llmrouter", texts)
    listed = json.loads((files("roster.lm.data") / "llmrouter/prices.json").read_text(encoding="utf-8"))["prices"]
    prices = {model: Price(**listed[model]) for model in found.models}
    written_NM = np.full(found.score_NM.shape, ANSWER_TOKENS)
    return deduplicate(
        Records(
            name="llmrouter",
            prompts=found.prompts,
            models=found.models,
            score_NM=found.score_NM,
            cost_NM=cost_of_tokens(found.read_N, found.models, prices, written_NM),
            delay_NM=unknown(*found.score_NM.shape),
            datasets=found.datasets,
            splits=found.splits,
            notes=(
                "costs are derived: prices per token x (characters of the prompt / 4 + an assumed answer of "
                f"{ANSWER_TOKENS:g} tokens)",
            ),
        )
    )
