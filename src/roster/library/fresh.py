"""Fresh experts: adapters that change nothing yet, for recipes that train experts and routers together."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import nn

from roster.errors import RosterError
from roster.library.adapter import LowRank
from roster.library.fits import linear_size
from roster.library.folder import Library
from roster.library.making import make_adapter
from roster.shelf.card import Card


def fresh(
    model: nn.Module, names: Sequence[str], targets: str, *, rank: int = 8, alpha: float = 16.0, base: str | None = None
) -> Library:
    """Experts as LoRA begins: A random, B zero.

    Args:
        model: the base.
        names: of the experts.
        targets: regular expression that the full name of a linear layer must match, e.g. ".*_proj".
        rank: of every expert.
        alpha: the update is scaled by alpha / rank.
        base: public name of the base.

    Raises:
        RosterError: nothing matches.
    """
    layers = {n: size for n, m in model.named_modules() if re.fullmatch(targets, n) and (size := linear_size(m))}
    if not layers:
        raise RosterError(f"no linear layer of the model is called like {targets!r}")
    adapters = {}
    for name in names:
        modules = {}
        for layer, (width, out) in layers.items():
            A_RD = nn.init.kaiming_uniform_(torch.empty(rank, width), a=math.sqrt(5))
            modules[layer] = LowRank(A_RD, torch.zeros(out, rank), alpha / rank)
        adapters[name] = make_adapter(name, modules, base or "", Card(task=name, base=base))
    return Library(adapters)
