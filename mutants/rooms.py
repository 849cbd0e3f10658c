"""Where changes are made, room by room, and which tests may notice them.

Not here: which of these tests run a given line (`reach.py` measures that).
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = "src/roster"

ROOMS = {
    "route": ["route.py"],
    "select": ["select"],
    "score": ["score"],
    "balance": ["balance"],
    "dispatch": ["dispatch"],
    "routed": ["routed"],
    "adapters": ["adapters"],
    "library": ["library"],
    "moe": ["moe"],
    "lm.curve": ["lm/curve.py"],
    "lm.evaluate": ["lm/evaluate.py"],
    "gateway.session": ["gateway/session.py"],
    "gateway.relay": ["gateway/relay.py"],
    "gateway.breaker": ["gateway/breaker.py"],
    "gateway.store": ["gateway/store.py"],
}

TESTS = {
    "tests": "parts route",
    "tests/parts": "*",
    "tests/dispatch": "backends choose layer memory",
    "tests/adapters": "against_peft encoder folder generate_arguments low_rank merging nobody refused siblings "
    "training trial two_streams",
    "tests/library": "*",
    "tests/moe": "*",
    "tests/recipes": "linguistic_experts pilots prompts_decide rerouting skills_in_heads transfer",
    "tests/lm": "curve evaluate",
    "tests/gateway": "answers bad_requests budgets cascade connections experiments failures feedback limits parts "
    "passthrough refusals several store_away streams tuned ways",
}

# What is slow: only what the tests above did not notice is held against these, by `--slow`.
SLOW = {
    "route select score balance dispatch": "test_router recipes/test_* auto/test_*",
    "routed adapters library": "auto/test_* test_saving recipes/test_*",
    "moe": "recipes/test_* test_saving",
    "lm.curve lm.evaluate": "lm/test_report_honest lm/test_mix",
    "gateway.session gateway.relay gateway.breaker gateway.store": "gateway/test_counting gateway/test_keys "
    "gateway/test_tracing",
}
# Left out: what is slower still, or sees other code. A change that only these would notice counts as a survivor.
LEFT_OUT = {
    "tests/test_invariants.py": "builds every recipe's model, several times",
    "tests/adapters: devices, generation, placement, precision, quantized, two_processes": "many models, or processes",
    "tests/gateway: clients": "other packages' clients, in processes of their own",
    "tests/lm: the others": "estimators, encoders, recorded data",
    "tests/cli, tests/arena, tests/train, tests/pocket and the others": "whole commands and trainings",
}
# Where tests speak to the whole and name no part of it: for `--quick`.
FIRST = {
    "route": "test_route dispatch/test_backends parts/test_who_is_chosen",
    "dispatch": "dispatch/test_backends",
    "select": "parts/test_who_is_chosen test_parts",
    "score": "test_parts parts/test_learned_scores",
    "balance": "parts/test_balance_losses test_parts",
    "lm.curve": "lm/test_curve",
    "lm.evaluate": "lm/test_evaluate",
    "gateway.session": "gateway/test_cascade gateway/test_failures gateway/test_budgets gateway/test_refusals",
    "gateway.relay": "gateway/test_streams gateway/test_cascade gateway/test_failures",
    "gateway.breaker": "gateway/test_parts",
    "gateway.store": "gateway/test_parts gateway/test_budgets",
}
# Tests with time limits of their own: on a busy machine one may fail without a fault, so that it has to fail twice.
TIMED = ("tests/gateway/",)
# Single tests by a part of their name.
LEFT_OUT_TESTS = {
    "test_compiled_without_a_graph_break": "torch.compile, several seconds each",
    "test_loading_takes_no_more_memory_than_transformers": "measures memory in fresh processes",
    "test_the_gateway_keeps_to_its_own_description": "drawn requests, several seconds each",
    "test_killed_in_the_middle": "starts and kills processes",
}


def sources(root: Path, room: str) -> list[Path]:
    """The files of a room, in order; a Triton kernel is left out, as the CPU's tests do not run it."""
    found: list[Path] = []
    for place in ROOMS[room]:
        path = root / PACKAGE / place
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [path for path in found if path.name != "triton_kernel.py"]


def slow_files(root: Path, room: str) -> list[str]:
    """The slow test files of a room, as paths below the root."""
    patterns = next((names.split() for rooms, names in SLOW.items() if room in rooms.split()), [])
    return [str(path.relative_to(root)) for each in patterns for path in sorted(root.glob(f"tests/{each}.py"))]


def test_files(root: Path) -> list[str]:
    """The test files that are used, as paths below the root."""
    patterns = [f"{folder}/test_{name}.py" for folder, names in TESTS.items() for name in names.split()]
    return sorted(str(path.relative_to(root)) for pattern in patterns for path in root.glob(pattern))
