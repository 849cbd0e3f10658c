"""Folders of PEFT's Poly and MHR (`PolyConfig`): skills and their allocation to tasks, read and written.

PEFT keeps all skills of a layer in one tensor and the tasks without names; here skills are adapters of a library, and
tasks have names.

Shape legend: N tasks, E skills, H heads (`n_splits`), r rank, I in_features, O out_features, i = I / H, o = O / H.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import peft
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from roster.adapters.attach import attach
from roster.adapters.site import routed_linears
from roster.errors import RosterError
from roster.experts import LowRankExperts
from roster.files import read_object
from roster.library import Library, LowRank, make_adapter
from roster.library.config import CONFIG
from roster.library.reading import WEIGHTS, check_tensors
from roster.recipes import find
from roster.saving import writing
from roster.score import TaskTable
from roster.tensors import StoredTensors

_KEY = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.(?P<part>poly_lora_[AB]|poly_router\.module_logits)$")
_COUNTS = ("r", "n_tasks", "n_skills", "n_splits")


@dataclass(frozen=True)
class Poly:
    """What such a folder holds.

    Attributes:
        library: the skills, named by their numbers.
        tables: logits [N, E, H] by module.
        heads: H.
    """

    library: Library
    tables: Mapping[str, Tensor]
    heads: int


def read_poly(folder: str | Path) -> Poly:
    """Reads what PEFT's `save_pretrained` wrote of a `PolyModel`.

    Raises:
        RosterError: no such folder, another kind of adapter, or tensors that do not belong to its config.
    """
    folder = Path(folder)
    config = _config(folder)
    r, N, E, H = (config[name] for name in _COUNTS)
    stored = StoredTensors(folder, WEIGHTS.removesuffix(".safetensors"))
    found: dict[str, dict[str, Tensor]] = {}
    for key in stored:
        match = _KEY.match(key)
        if match is None:
            raise RosterError(f"{str(stored.where)!r}: tensor {key!r} is none of a Poly adapter")
        found.setdefault(match["module"], {})[match["part"]] = stored[key]
    skills: list[dict[str, LowRank]] = [{} for _ in range(E)]
    tables = {}
    for module, parts in found.items():
        for part in ("poly_lora_A", "poly_lora_B", "poly_router.module_logits"):
            if part not in parts:
                raise RosterError(f"{str(stored.where)!r}: module {module!r} has no {part}")
        check_tensors(parts, f"{str(stored.where)!r}, module {module!r}")
        A_HEir, B_HEro, logits = (parts[p] for p in ("poly_lora_A", "poly_lora_B", "poly_router.module_logits"))
        right = A_HEir.dim() == B_HEro.dim() == 4 and A_HEir.shape[:2] == B_HEro.shape[:2] == (H, E)
        if not right or (A_HEir.shape[3], B_HEro.shape[2]) != (r, r) or logits.shape != (N, H * E):
            raise RosterError(
                f"{str(stored.where)!r}: module {module!r} has tensors {list(A_HEir.shape)}, {list(B_HEro.shape)} and "
                f"{list(logits.shape)}, which do not belong to n_splits={H}, n_skills={E}, r={r}, n_tasks={N}"
            )
        tables[module] = logits.view(N, H, E).transpose(1, 2).contiguous()
        for skill, modules in enumerate(skills):
            A_rI = A_HEir[:, skill].flatten(0, 1).T.contiguous()
            B_OR = B_HEro[:, skill].transpose(1, 2).flatten(0, 1).contiguous()
            modules[module] = LowRank(A_rI, B_OR, 1 / r)  # Poly divides by the rank
    base = config.get("base_model_name_or_path") or ""
    width = len(str(E - 1))
    names = [f"skill {skill:0{width}}" for skill in range(E)]
    adapters = {name: make_adapter(name, each, base) for name, each in zip(names, skills, strict=True)}
    return Poly(Library(adapters), tables, H)


def load_poly(model: Any, folder: str | Path, *, tasks: Sequence[str] | None = None) -> Any:
    """Attaches such a folder to its base, as the recipe `mhr`.

    Args:
        model: the base, in place.
        folder: what PEFT wrote.
        tasks: names of its tasks, in the order of PEFT's task ids; by default their numbers.
    """
    poly = read_poly(folder)
    N = len(next(iter(poly.tables.values())))
    names = [str(index) for index in range(N)] if tasks is None else list(tasks)
    if len(set(names)) != N:
        raise RosterError(f"{str(folder)!r} has {N} tasks: give as many different names, not {len(set(names))}")
    options = {"tasks": names, "heads": poly.heads}
    routed = attach(model, poly.library, find("mhr")(options), recipe="mhr", options=options)
    with torch.no_grad():
        for name, child in routed_linears(routed):
            cast(TaskTable, cast(nn.Module, child.router).score).table.copy_(poly.tables[name])
    return routed


def write_poly(model: Any, folder: str | Path) -> Path:
    """Writes a mixture of `mhr`, or of `polytropon` with `average="factors"`, as PEFT's Poly.

    Raises:
        RosterError: a recipe whose function Poly does not have.
    """
    tensors: dict[str, Tensor] = {}
    heads: set[int] = set()
    ranks: set[int] = set()
    modules = []
    for name, child in routed_linears(model):
        experts, score = child.experts, getattr(child.router, "score", None)
        if not isinstance(experts, LowRankExperts) or experts.average != "factors" or not isinstance(score, TaskTable):
            raise RosterError(
                f"recipe {model.roster.recipe!r} is not the function of PEFT's Poly: that is mhr, or polytropon with "
                "average='factors'"
            )
        H, E, r = getattr(experts, "heads", 1), experts.num_experts, cast(int, experts.rank)
        heads, ranks = heads | {H}, ranks | {r}
        modules.append(name)
        A_ErHi, B_ErHo = (each.detach().cpu().unflatten(0, (E, r)).unflatten(2, (H, -1)) for each in
                          (experts.A_RI, experts.B_RO))  # fmt: skip
        factor_E = experts.scale_E.cpu() * r  # what Poly's own division by the rank leaves over
        table_NEH = score.table.detach().cpu().unflatten(1, (E, -1)).view(-1, E, H)
        key = f"base_model.model.{name}"
        tensors[f"{key}.poly_lora_A"] = A_ErHi.permute(2, 0, 3, 1).contiguous()
        tensors[f"{key}.poly_lora_B"] = (B_ErHo * factor_E[:, None, None, None]).permute(2, 0, 1, 3).contiguous()
        tensors[f"{key}.poly_router.module_logits"] = table_NEH.transpose(1, 2).flatten(1).contiguous()
    if len(ranks) > 1:
        raise RosterError(f"PEFT's Poly has one rank for all layers, not {sorted(ranks)}")
    config = peft.PolyConfig(
        base_model_name_or_path=model.roster.base_name,
        task_type=_task_type(model),
        r=ranks.pop(),
        target_modules="|".join(f"(?:{re.escape(module)})" for module in modules),
        n_tasks=len(model.roster.tasks),
        n_skills=len(model.roster.experts),
        n_splits=heads.pop(),
        inference_mode=True,
    )
    with writing(Path(folder), (CONFIG, WEIGHTS)) as new:
        save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(str(new))
    return Path(folder)


def _task_type(model: Any) -> str | None:
    """The kind of model by which PEFT knows that task ids are to be handed on."""
    name = type(model).base_class.__name__
    kinds = {"ForCausalLM": "CAUSAL_LM", "ForConditionalGeneration": "SEQ_2_SEQ_LM"}
    return next((kind for ending, kind in kinds.items() if name.endswith(ending)), None)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    config = read_object(file)
    kind = config.get("peft_type")
    if kind != "POLY" or config.get("poly_type", "poly") != "poly":
        raise RosterError(f"{str(file)!r} is not the config of a Poly adapter (peft_type={kind!r})")
    for name in _COUNTS:
        value = config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RosterError(f"{str(file)!r}: {name}={value!r} must be a whole number above 0")
    return config
