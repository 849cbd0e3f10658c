"""PEM arithmetic: adapters added, negated and compared by their own tensors, adapter folders in and out.

Equation: for a LoRA A = sum_i |w_i| A_i and B = lambda sum_i w_i B_i, each sum apart; a weight below 0 negates an
adapter, which turns the sign of B alone. For (IA)3 v = 1 + lambda sum_i w_i (v_i - 1), so that negation is 2 - v.
Addition: weights that sum to 1. Negation: one adapter, weight -1, `lambda` its strength. Analogy ("first plus second
minus third"): weights w, 1 - w, w - 1, as in the authors' code.

B A is not the sum of the updates: it has cross terms B_1 A_2, which make sense only where the adapters were trained
from one A, as then they point the same way; a note says so where they were not. `roster.merge.adapters.concatenate` is
exact.

Source: Zhang et al. 2023, arXiv 2306.14870. PEFT's `combination_type="linear"` multiplies A and B by sqrt(w_i scale_i)
each, so that one adapter's own update comes out with w_i; here it comes out with w_i^2, as in the authors' code.

Shape legend: R rank, I in_features.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roster.errors import RosterError, RosterNote
from roster.files import read_object
from roster.merge.config import MergeConfig
from roster.merge.learned import Learned
from roster.merge.method import Method, PerModel, per_model, shared
from roster.merge.settings import Settings, check_names
from roster.weights import Checkpoint, Kernel, Operand, Output, Plan, Spec, make_plan, same_specs

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model"
_SAME = ("peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out")
"""What a config must say alike, for the sums to mean anything."""
_ALIKE = 0.5
"""A cosine between two A's above which they started from the same; from different ones it is near 0."""


@dataclass
class Arithmetic(Kernel):
    """Operands: one tensor of each adapter; its name says which kind of tensor."""

    weight: PerModel = per_model()
    lambda_: float = shared(1.0, name="lambda")
    tensor: str = ""

    def write(self, x: Sequence[Tensor], start: int) -> Tensor:
        """See the module."""
        kind = kind_of(self.tensor)
        weights = [abs(each) for each in self.weight] if kind == "A" else list(self.weight)
        if kind == "l":
            for each in x:
                each.sub_(1)
        made = x[0].mul_(weights[0])
        for weight, each in zip(weights[1:], x[1:], strict=True):
            made.add_(each, alpha=weight)
        if kind != "A" and self.lambda_ != 1:
            made.mul_(self.lambda_)
        return made.add_(1) if kind == "l" else made


def kind_of(tensor: str) -> str:
    """ "A", "B" or "l" (of (IA)3).

    Raises:
        RosterError: any other tensor, for which there is no arithmetic.
    """
    for part, kind in (("lora_A", "A"), ("lora_embedding_B", "A"), ("lora_B", "B"), ("lora_embedding_A", "B")):
        if part in tensor:
            return kind
    if "ia3_l" in tensor:
        return "l"
    raise RosterError(f"adapter tensor {tensor!r} belongs neither to a LoRA nor to an (IA)3, which alone can be added")


def plan_adapters(config: MergeConfig, method: Method, learned: Learned | None, max_shard: int) -> Plan:
    """The plan of an adapter made of adapters.

    Raises:
        RosterError: a folder that is no adapter, configs that differ where they must not, other tensors or shapes.
    """
    check_names(config, method)
    if config.base_model is not None or len(config.slices) != 1 or config.slices[0].members[0].layers is not None:
        raise RosterError(f"method {method.slug!r} merges whole adapters: give models, and neither a base nor slices")
    members = config.slices[0].members
    method.check_count(len(members), False)
    folders = [Path(each.model) for each in members]
    configs = [_config(each) for each in folders]
    _check(folders, configs)
    sources = [Checkpoint(folder / f"{WEIGHTS}.safetensors", str(folder)) for folder in folders]
    _check_names(sources)
    settings = Settings(config, method)
    outputs = []
    for name in sources[0].specs:
        kind_of(name)
        operands = tuple(Operand(each, name) for each in sources)
        spec = same_specs(name, operands)
        values = settings.of(name, config.slices[0], members, 0.0)
        made = method.make(values, name, spec.shape)
        dtype = config.out_dtype or config.dtype or spec.dtype
        outputs.append(Output(name, Spec(dtype, spec.shape), operands, made))
    settings.check_filters()
    if kinship(sources) < _ALIKE:
        warnings.warn(
            "these adapters were not trained from one A: their cross terms are noise; write BASE+ADAPTER to merge them "
            "as models, or add them exactly with roster.merge.adapters.concatenate",
            RosterNote,
            stacklevel=2,
        )
    size = sum(each.spec.nbytes for each in outputs)
    files = {CONFIG: folders[0] / CONFIG}
    return make_plan(outputs, sources, files, max(size, 1), f"{method.slug} of adapters", WEIGHTS)


def kinship(sources: Sequence[Checkpoint]) -> float:
    """The least cosine between the first adapter's A and another's, over their first layer; 1 where there is no A."""
    name = next((each for each in sources[0].specs if kind_of(each) == "A"), None)
    if name is None:
        return 1.0
    A_RI = [each.read(name, 0, each.specs[name].numel).float() for each in sources]
    return min((float(torch.cosine_similarity(A_RI[0], other, dim=0)) for other in A_RI[1:]), default=1.0)


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise RosterError(f"{str(folder)!r} is not an adapter: it has no {CONFIG}")
    if not (folder / f"{WEIGHTS}.safetensors").is_file():
        raise RosterError(f"{str(folder)!r} has an {CONFIG}, but no {WEIGHTS}.safetensors")
    return read_object(folder / CONFIG)


def _check(folders: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> None:
    first = configs[0]
    if first.get("peft_type") not in ("LORA", "IA3") or first.get("use_dora"):
        kind = "a DoRA" if first.get("use_dora") else repr(first.get("peft_type"))
        raise RosterError(f"{str(folders[0])!r} is {kind}: there is arithmetic for LoRA and IA3")
    for folder, other in zip(folders[1:], configs[1:], strict=True):
        for key in _SAME:
            if (other.get(key) or None) != (first.get(key) or None):
                raise RosterError(
                    f"{key} is {first.get(key)!r} in {str(folders[0])!r} and {other.get(key)!r} in {str(folder)!r}: "
                    "tensors can be added only where it is the same"
                )


def _check_names(sources: Sequence[Checkpoint]) -> None:
    first = sources[0]
    for each in sources[1:]:
        for name in sorted(first.specs.keys() ^ each.specs.keys()):
            owner, other = (first, each) if name in first.specs else (each, first)
            raise RosterError(f"the adapter {owner.name!r} has the tensor {name!r}, and {other.name!r} has not")


METHOD = Method(
    "pem-arithmetic",
    "PEM arithmetic",
    "Zhang et al. 2023, arXiv 2306.14870",
    Arithmetic,
    base="member",
    makes="an adapter",
    plan=plan_adapters,
)
