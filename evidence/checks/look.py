"""A look into trained mixtures: do routers prefer the expert whose answer has the larger norm, and do experts differ
more in deeper layers, the last excepted?

Small language models of the arena, four layers of top-2 of 8 experts, trained from scratch; statistics over validation
text. A rank of 0.5 is what a router would reach that does not look at norms.
"""

from __future__ import annotations

import statistics

from roster.analyze.experts import look_into
from roster.arena.moe.data import corpus
from roster.arena.moe.pretrain import Terms, pretrain

TERMS = Terms(steps=1500, rows=12, length=64, layers=4)


def check(seed: int) -> dict[str, float]:
    """Statistics of each layer."""
    model = pretrain("gshard-top2", terms=TERMS, seed=seed).model
    ids_BS, _ = corpus().validation_rows(TERMS.validation_rows, TERMS.length)
    figures = {}
    for index, layer in enumerate(look_into(model, input_ids=ids_BS, use_cache=False)):
        figures |= {
            f"layer {index}: rank of the chosen by norm": layer.loudness_rank,
            f"layer {index}: share where the chosen is loudest": layer.loudest_first,
            f"layer {index}: similarity of answers": layer.answer_similarity,
            f"layer {index}: similarity of down matrices": layer.weight_similarity["down_EFD"],
        }
    return figures


def shown(figures: list[dict[str, float]]) -> bool:
    """In the mean over seeds the chosen expert's rank by norm is below 0.5 in every layer, and answers grow less alike
    from layer to layer up to the last but one.
    """

    def mean(name: str) -> list[float]:
        return [statistics.mean(each[f"layer {index}: {name}"] for each in figures) for index in range(TERMS.layers)]

    alike = mean("similarity of answers")[:-1]
    return max(mean("rank of the chosen by norm")) < 0.5 and alike == sorted(alike, reverse=True)
