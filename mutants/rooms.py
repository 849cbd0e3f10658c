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

LM = (
    "curve",
    "evaluate",
    "mix",
    "policy",
    "records",
    "report_honest",
    "rules",
)  # the others see other files of lm
TESTS = [
    "tests/test_*.py",
    "tests/parts/test_*.py",
    "tests/dispatch/test_*.py",
    "tests/adapters/test_*.py",
    "tests/library/test_*.py",
    "tests/moe/test_*.py",
    "tests/recipes/test_*.py",
    *(
        f"tests/lm/test_{name}.py"
        for name in ("curve", "evaluate", "mix", "policy", "records", "report_honest", "rules")
    ),
    "tests/gateway/test_*.py",
]

# A change that only these would notice counts as a survivor.
LEFT_OUT = {
    "tests/test_doc_blocks.py": "each block in a fresh process",
    "tests/test_docs.py": "reads pages",
    "tests/test_imports.py": "reads sources",
    "tests/test_makefile.py": "runs make",
    "tests/gateway/test_clients.py": "other packages' clients, each in a fresh process",
    "tests/gateway/test_config.py": "the configuration, none of the rooms",
    "tests/gateway/test_outbound.py": "calls without a session",
    "tests/gateway/test_tracing.py": "what is told to a collector",
    "tests/gateway/test_store_away.py": "starts a PostgreSQL server",
    "tests/adapters/test_two_processes.py": "starts two processes",
    "tests/dispatch/test_triton.py": "Triton's interpreter, minutes",
}
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


def test_files(root: Path) -> list[str]:
    """The test files that are used, as paths below the root."""
    found = {str(path.relative_to(root)) for pattern in TESTS for path in root.glob(pattern)}
    return sorted(found - set(LEFT_OUT))
