"""Mixtures on disk, the whole model in memory beside them, and planted routes."""

import re

import numpy as np
import pytest
import torch

import tiny
from moe.mixtures import mixture
from roster.errors import RosterError
from roster.offload import load
from roster.offload.strategy import Geometry
from roster.offload.traces import NOBODY, Routes


def saved(folder, name="mixtral", dtype="float32", fused=False, **settings):
    """Writes a random mixture as its makers would (an expert a tensor), or stacked as transformers holds it."""
    model = mixture(name, **settings).to(getattr(torch, dtype))
    model.save_pretrained(folder, save_original_format=not fused)
    return type(model)


def whole(cls, folder, **kwargs):
    """The model in memory of its own: transformers maps files, at addresses where kernels round differently."""
    model = cls.from_pretrained(folder, **kwargs).eval()
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def budget(folder, experts, **kwargs):
    """Bytes in which so many experts have a slot: what the smallest budget's error says, and the slots above it."""
    with pytest.raises(RosterError, match="too little") as caught:
        load(folder, 1, **kwargs)
    found = re.search(r"with (\d+) experts \(([\d,]+) .* needs ([\d,]+)", str(caught.value))
    least, each, needed = (int(number.replace(",", "")) for number in found.groups())
    return needed + (experts - least) * each


def prompts(side="left"):
    ids, mask = tiny.padded(tiny.tokens(9, 5, seed=3), side)
    return {"input_ids": ids, "attention_mask": mask}


def planted(sequences=12, length=40, layers=4, experts=8, k=2, groups=2, seed=0, prompt=4, vocab=32, apart=False):
    """Routes with structure: a sequence's group has favourites (`apart`: its own); the next gate is mostly right."""
    draw = np.random.default_rng(seed)
    weight = np.full((groups, layers, experts), 0.3)
    for layer in range(layers):
        order = draw.permutation(experts)
        for group in range(groups):
            own = order[group::groups] if apart else draw.permutation(experts)[: experts // 2]
            weight[group, layer, own] = 3.0
    chosen, ahead, ids, starts = [], [], [], [0]
    for each in range(sequences):
        group = each % groups
        ids.append(draw.integers(group * vocab // groups, (group + 1) * vocab // groups, length))
        score = np.log(weight[group]) + draw.gumbel(size=(length, layers, experts))
        order = np.argsort(-score, axis=-1)
        chosen.append(order[..., :k])
        guess = np.argsort(-(score + draw.normal(size=score.shape) * 0.3), axis=-1)[..., : k + 2]
        guess[:, 0] = NOBODY
        ahead.append(guess)
        starts.append(starts[-1] + length)
    return Routes(
        np.concatenate(chosen).astype(np.int16),
        np.concatenate(ahead).astype(np.int16),
        np.concatenate(ids).astype(np.int32),
        np.array(starts, np.int32),
        np.full(sequences, prompt, np.int32),
        Geometry((experts,) * layers, k, vocab),
        "planted",
    )
