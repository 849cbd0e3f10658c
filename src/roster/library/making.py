"""Adapters made in memory: updates with a config by which PEFT reproduces them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import peft

from roster.errors import RosterError
from roster.library.adapter import Adapter, LowRank, Magnitude, Rescaled, Vector, hash_modules
from roster.library.config import resolve
from roster.shelf.card import Card


def make_adapter(name: str, modules: Mapping[str, LowRank], base: str, card: Card | None = None) -> Adapter:
    """An adapter from updates, with a config by which PEFT reproduces them, different ranks and scales included.

    PEFT stores alpha, from which the scale is recomputed, so a scale may change in its last bit; the adapter that is
    returned has the scales that a reader will find.

    Args:
        name: what its folder will be called.
        modules: update by the full name of the base's module.
        base: public name of the base.
        card: by default one whose task is the name.
    """
    check_updates(name, modules)
    for module, update in modules.items():
        if isinstance(update, Vector):
            raise RosterError(f"adapter {name!r}: {module!r} is a vector, (IA)3, of which no LoRA can be made")
    ranks = {module: update.A_RD.shape[0] for module, update in modules.items()}
    alphas = {module: _alpha(update.scale * ranks[module]) for module, update in modules.items()}
    r, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = peft.LoraConfig(
        base_model_name_or_path=base,
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it: any number does
        # A list would match by suffix, and so take in modules that nobody named.
        target_modules="|".join(f"(?:{re.escape(module)})" for module in modules),
        # Anchored, as PEFT would let any prefix stand before the pattern.
        rank_pattern={f"^{re.escape(m)}": rank for m, rank in ranks.items() if rank != r},
        alpha_pattern={f"^{re.escape(m)}": each for m, each in alphas.items() if each != alpha},
        use_dora=isinstance(next(iter(modules.values())), Magnitude),
        inference_mode=True,
    )
    exact = {module: replace(update, scale=resolve(config, module)[1]) for module, update in modules.items()}
    return Adapter(name, None, exact, card or Card(task=name, base=base or None), config, hash_modules(exact))


def check_updates(name: str, modules: Mapping[str, LowRank]) -> None:
    """RosterError for updates that are none of one linear layer, or that no file of PEFT can hold together."""
    if not modules:
        raise RosterError(f"adapter {name!r} would change nothing: it has no updates")
    for module, update in modules.items():
        if isinstance(update, Vector):
            continue
        A, B = update.A_RD, update.B_OR
        if A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1] or A.shape[0] == 0:
            raise RosterError(
                f"adapter {name!r}: {module!r} has A {list(A.shape)} and B {list(B.shape)}, which are not "
                "[rank, in_features] and [out_features, rank]"
            )
        if not math.isfinite(update.scale):
            raise RosterError(f"adapter {name!r}: the scale of {module!r} is {update.scale}")
        if isinstance(update, Rescaled):
            raise RosterError(f"adapter {name!r}: {module!r} is on its base already, and no file holds it like that")
    if len({isinstance(update, Vector) for update in modules.values()}) > 1:
        raise RosterError(f"adapter {name!r}: some of its updates are vectors, (IA)3, and some are not")
    if len({isinstance(update, Magnitude) for update in modules.values()}) > 1:
        raise RosterError(f"adapter {name!r}: some of its updates have a magnitude (DoRA) and some have none")


def _alpha(value: float) -> float:
    """A whole alpha as an integer, as other programs expect it."""
    return int(value) if value == int(value) else value
