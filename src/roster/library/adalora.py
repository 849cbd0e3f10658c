"""AdaLoRA adapters (Zhang et al., 2023, arXiv:2303.10512) as PEFT writes them, read as the LoRA that they are.

`delta W = alpha / (init_r + 1e-5) * B diag(E) A` of the ranks that the training left, small term and all. Folding E
into A gives a LoRA of as many ranks, exactly.

Shape legend: R rank that is left, I in_features, O out_features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from roster.errors import RosterError

KIND = "ADALORA"
_KEY = re.compile(r"^(?P<module>.+)\.lora_(?P<factor>[AEB])(?:\.default)?$")
# What only says how it was trained; `r` and `rank_pattern` are said by the tensors.
_OWN = frozenset(
    {"target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"}
    | {"rank_pattern", "r", "use_rslora"}
)


def as_lora(
    raw: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(config, tensors) of a plain LoRA that computes the same.

    Args:
        raw: the content of `adapter_config.json`.
        tensors: those of the adapter's file.
        where: the file, for messages.

    Raises:
        RosterError: tensors that are not AdaLoRA's, or numbers that make no scale.
    """
    init_r, alpha = raw.get("init_r", 12), raw.get("lora_alpha", 8)
    for name, value in (("init_r", init_r), ("lora_alpha", alpha)):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise RosterError(f"{where}: {name}={value!r} of an AdaLoRA adapter must be a number above 0")
    scale = alpha / (init_r + 1e-5)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            raise RosterError(f"{where}: tensor {key!r} is none of an AdaLoRA adapter")
        found.setdefault(match["module"], {})[match["factor"]] = tensor
    plain, ranks = {}, {}
    for module, parts in found.items():
        shapes = {factor: list(parts[factor].shape) for factor in "AEB" if factor in parts}
        rank = shapes.get("E", [0])[0]
        if len(shapes) < 3 or shapes["E"] != [rank, 1] or (shapes["A"][0], shapes["B"][1:]) != (rank, [rank]):
            raise RosterError(
                f"{where}: module {module!r} has lora_A, lora_E and lora_B of {shapes}: they do not belong"
            )
        if rank == 0:  # all its ranks were taken away
            continue
        plain[f"{module}.lora_A.weight"] = parts["A"] * parts["E"]
        plain[f"{module}.lora_B.weight"] = parts["B"]
        ranks[module.removeprefix("base_model.model.")] = rank
    if not ranks:
        raise RosterError(f"{where}: the training left no ranks: this adapter changes nothing")
    config = {name: value for name, value in raw.items() if name not in _OWN}
    return {
        **config,
        "peft_type": "LORA",
        "r": max(ranks.values()),
        # Anchored, as PEFT would let any prefix stand before the pattern.
        "rank_pattern": {f"^{re.escape(module)}": rank for module, rank in ranks.items()},
        "alpha_pattern": {f"^{re.escape(module)}": scale * rank for module, rank in ranks.items()},
    }, plain
