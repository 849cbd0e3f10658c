"""Routes of a trained mixture (`trained.py`): which experts tokens of real text visit.

Shape legend: N tokens, L layers, K chosen per token, A experts that the next gate is asked about.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch

from evidence.grounds.trained import LENGTH, batch, folder, load
from evidence.protocol.check import Draw
from roster.offload import Routes, recording
from roster.offload.traces import NOBODY

PROMPT = 16
SEQUENCES, SHORT_SEQUENCES = 60, 9
GROUND = (
    "the routes of a Mixtral of 4 layers, 16 experts each, 2 serve, width 64, trained for 300 steps on code, manual "
    f"and skills; 60 sequences of {LENGTH} tokens to learn from, as many others to be judged by"
)


@functools.lru_cache(maxsize=2)
def routes(draw: Draw) -> tuple[Routes, Routes]:
    """(To learn from, to be judged by): the model is the ground's, the text is luck's."""
    many = SHORT_SEQUENCES if draw.short else SEQUENCES
    model = load(folder(draw))
    with torch.no_grad(), recording(model, prompt=PROMPT) as recorder:
        for part in batch(0, 9_000 + draw.luck, rows=2 * many).split(20):
            model(input_ids=part, use_cache=False)
    everything = recorder.routes()
    return everything.part(list(range(many))), everything.part(list(range(many, 2 * many)))


def blind(found: Routes) -> Routes:
    """Without what the next gate said."""
    return replace(found, ahead_NLA=np.full_like(found.ahead_NLA, NOBODY))


def mixed(found: Routes, luck: int) -> Routes:
    """Routes under other tokens' ids and in other sequences: use is as it was, who is with whom is not."""
    order = np.random.default_rng(luck).permutation(len(found.ids_N))
    return replace(found, chosen_NLK=found.chosen_NLK[order], ahead_NLA=found.ahead_NLA[order])


def unpaired(found: Routes, luck: int) -> Routes:
    """Each layer's routes in an order of its own: use is as it was, what follows what is not."""
    dice = np.random.default_rng(luck)
    columns = [
        found.chosen_NLK[dice.permutation(len(found.ids_N)), layer] for layer in range(found.chosen_NLK.shape[1])
    ]
    return replace(found, chosen_NLK=np.stack(columns, 1))
