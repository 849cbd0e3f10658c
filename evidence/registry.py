"""Every check under the protocol, by its name. One explicit list; a check is imported when it is asked for."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from evidence.protocol.check import Check
from roster.errors import RosterError, nearest

FOLDER = Path(__file__).parent
MODULES: dict[str, str] = {
    "capacity-aware-inference.reroute": "evidence.checks.capacity_aware_inference",
    "capacity-aware-inference.score": "evidence.checks.capacity_aware_inference",
    "capacity-aware-inference.quality": "evidence.checks.capacity_aware_inference",
    "expert-prototyping": "evidence.checks.expert_prototyping",
    "dynamic-moe-top-p.loss": "evidence.checks.dynamic_moe",
    "dynamic-moe-top-p.hard": "evidence.checks.dynamic_moe",
    "expert-choice": "evidence.checks.expert_choice",
    "gw-moe": "evidence.checks.gw_moe",
    "switch-transformer": "evidence.checks.switch",
    "base-layers": "evidence.checks.base_layers",
    "stratified-moe.loss": "evidence.checks.stratified_moe",
    "stratified-moe.hard": "evidence.checks.stratified_moe",
    "loss-free-balancing.error": "evidence.checks.loss_free_balancing",
    "loss-free-balancing.load": "evidence.checks.loss_free_balancing",
    "locmoe.crossing": "evidence.checks.locmoe",
    "locmoe.error": "evidence.checks.locmoe",
    "adatt.loss": "evidence.checks.adatt",
    "adatt.fusion": "evidence.checks.adatt",
    "mmoe-factorized.accuracy": "evidence.checks.mmoe_factorized",
    "mmoe-factorized.specialise": "evidence.checks.mmoe_factorized",
    "smear": "evidence.checks.smear",
    "arrow-mbc": "evidence.checks.arrow",
    "phatgoose": "evidence.checks.phatgoose",
    "direct-nmt-task-moe": "evidence.checks.direct_nmt",
    "lora-tle": "evidence.checks.lora_tle",
    "routerdc": "evidence.checks.routerdc",
    "carrot-router": "evidence.checks.carrot",
    "modem": "evidence.checks.modem",
    "smoothie": "evidence.checks.smoothie",
    "composition-of-experts": "evidence.checks.composition_of_experts",
    "banditeval": "evidence.checks.banditeval",
    "remoe": "evidence.checks.remoe",
    "adamoe.loss": "evidence.checks.adamoe",
    "adamoe.fillers": "evidence.checks.adamoe",
    "sam-switch-mixture": "evidence.checks.sam",
    "tryage": "evidence.checks.tryage",
    "active-ranking-experts": "evidence.checks.active_ranking",
    "informed-thompson-sampling": "evidence.checks.informed_thompson",
    "rmoe": "evidence.checks.rmoe",
    "autonomy-of-experts": "evidence.checks.on_language",
    "competesmoe": "evidence.checks.on_language",
    "hyperrouter": "evidence.checks.on_language",
    "deepseekmoe": "evidence.checks.on_language",
    "shortcut-moe": "evidence.checks.on_language",
    "attention-router": "evidence.checks.on_language",
    "embedllm": "evidence.checks.forecasts",
    "irt-router": "evidence.checks.forecasts",
    "prompt-to-leaderboard": "evidence.checks.forecasts",
    "avengers": "evidence.checks.forecasts",
    "automix": "evidence.checks.automix",
    "frugalgpt": "evidence.checks.frugalgpt",
    "llm-bandit": "evidence.checks.llm_bandit",
    "model-sat": "evidence.checks.model_sat",
    "symbolic-moe": "evidence.checks.symbolic_moe",
    "masrouter": "evidence.checks.masrouter",
    "expertise-trees": "evidence.checks.expertise_trees",
    "learned-best-effort": "evidence.checks.learned_best_effort",
    "workload-aware-router": "evidence.checks.workload_aware",
    "polytropon": "evidence.checks.polytropon",
    "x-moe.steady": "evidence.checks.x_moe",
    "x-moe.loss": "evidence.checks.x_moe",
    "vqmoe": "evidence.checks.vqmoe",
    "evomoe": "evidence.checks.evomoe",
    "stablemoe": "evidence.checks.stablemoe",
    "mowe": "evidence.checks.mowe",
    "maskmoe": "evidence.checks.maskmoe",
    "grin.gradient": "evidence.checks.grin",
    "grin.loss": "evidence.checks.grin",
    "hmoe": "evidence.checks.hmoe",
    "finedeep": "evidence.checks.finedeep",
    "union-of-experts": "evidence.checks.union_of_experts",
    "smoe-dropout.slope": "evidence.checks.smoe_dropout",
    "smoe-dropout.dense": "evidence.checks.smoe_dropout",
    "task-moe": "evidence.checks.task_moe",
    "task-aware-moe.interference": "evidence.checks.task_aware",
    "task-aware-moe.transfer": "evidence.checks.task_aware",
    "uni-perceiver-moe": "evidence.checks.uni_perceiver",
    "cross-task-moe": "evidence.checks.cross_task",
    "moec": "evidence.checks.moec",
    "jiuzhang-2": "evidence.checks.jiuzhang_2",
    "mpoe": "evidence.checks.mpoe",
    "duo-llm": "evidence.checks.duo_llm",
    "spatial-moe.location": "evidence.checks.spatial_moe",
    "spatial-moe.damping": "evidence.checks.spatial_moe",
    "da-moe": "evidence.checks.da_moe",
    "jei-dnn": "evidence.checks.jei_dnn",
    "understanding-moe": "evidence.studies.clusters",
    "pmoe-patch-routing": "evidence.studies.patches",
    "vision-moe-routers.choice": "evidence.studies.vision_routers",
    "vision-moe-routers.soft": "evidence.studies.vision_routers",
    "look-into-moes": "evidence.checks.look",
    "thor": "evidence.checks.thor",
    "fine-grained-moe-scaling": "evidence.studies.granularity",
    "scmoe-self-contrast": "evidence.checks.self_contrast",
    "router-tuning-mindskip": "evidence.checks.mindskip",
    "mov-molora.lora": "evidence.checks.on_pocket",
    "mov-molora.vectors": "evidence.checks.on_pocket",
    "milora-prompt-routed": "evidence.checks.on_pocket",
    "x-lora": "evidence.checks.on_pocket",
    "logo": "evidence.checks.on_pocket",
}
"""Module by the name of a check; the module's `CHECKS` holds it."""


@cache
def find(name: str) -> Check:
    """The check of that name; RosterError with the nearest names when there is none."""
    if name not in MODULES:
        raise RosterError(f"unknown check {name!r}: {nearest(name, MODULES)}")
    checks: tuple[Check, ...] = importlib.import_module(MODULES[name]).CHECKS
    return next(check for check in checks if check.declaration.name == name)
