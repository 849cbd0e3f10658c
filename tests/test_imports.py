"""How modules may import each other: downwards, at the top of the file, and never in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "roster"
MODULES = {
    ".".join(("roster", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}
# Imports of roster's own modules inside functions, each with what it keeps light.
LATE = {
    "roster.dispatch.operations": "Triton is optional",
    "roster.gateway.policies.folder": "a gateway without tuned folders starts without scikit-learn",
    "roster.gateway.policies.probe": "a gateway without adapters starts without torch",
    "roster.merge.opening": "checkpoints are merged without PEFT",
    "roster.merge.palora": "merges are planned without PEFT",
    "roster.merge.wemoe": "merges are planned without PEFT",
    "roster.pocket.make": "its --help needs no torch",
    "roster.recipes.auto": "recipes are listed without PEFT",
    "roster.recipes.glider": "recipes are listed without PEFT",
    "roster.recipes.lorauter": "recipes are listed without PEFT",
    "roster.recipes.phatgoose": "recipes are listed without PEFT",
    "roster.recipes.offload": "recipes are listed without torch",
    "roster.recipes.place": "recipes are listed without SciPy",
    "roster.recipes.studies.contrast": "recipes are listed without transformers",
    "roster.recipes.studies.early_exit": "recipes are listed without transformers",
    "roster.recipes.studies.fedjets": "recipes are listed without transformers",
    "roster.recipes.studies.fsmoe": "recipes are listed without SciPy",
    "roster.recipes.studies.look": "recipes are listed without transformers",
}
# A room may import those of lower floors; rooms of one floor may import each other (modules never in a circle).
FLOORS = [
    {"errors", "allocator", "files", "entries", "header", "context", "options", "prompts", "route", "positions"}
    | {"processes", "search", "workers"},
    {"router", "score", "select", "balance", "experts", "dispatch", "pocket", "saving", "tensors", "reporting"},
    {"shelf"},
    {"library", "routed", "lm", "continual"},
    {"adapters", "auto", "moe", "recipes", "analyze", "offload", "place", "weights"},
    {
        "lm.evaluate",
        "lm.tune",
        "folders",
        "merge",
        "train",
        "suiting",
        "curation",
        "gateway",
        "api",
        "convert",
        "compress",
        "place.permuting",
        "serve",
    },
    {"arena", "deploy", "smol", "pocket.make", "pocket.routers", "pocket.stages"},
    {"cli", "__main__"},
]


def imports(path):
    """(module, line, whether inside a function, whether for types alone) of every import of roster in a file."""

    def visit(node, late, typing):
        for child in ast.iter_child_nodes(node):
            inside = late or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            only = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno, late, typing) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    yield (full if full in MODULES else child.module), child.lineno, late, typing
            yield from visit(child, inside, only)

    found = visit(ast.parse(path.read_text(encoding="utf-8")), False, False)
    return [each for each in found if each[0].partition(".")[0] == "roster"]


def graph():
    return {
        name: {target for target, _, _, typing in imports(path) if not typing and target in MODULES and target != name}
        for name, path in MODULES.items()
    }


def circles(edges):
    """Strongly connected components of more than one module (Tarjan's algorithm)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in edges[node]:
            if target not in index:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in edges:
        if node not in index:
            visit(node)
    return found


def test_no_circle():
    """Imports inside functions count: they hide a circle and do not undo it."""
    assert circles(graph()) == []


def test_a_circle_would_be_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.parametrize("name", sorted(name for name in MODULES if not name.startswith("roster.cli")))
def test_imports_stand_at_the_top(name):
    """The command line is the exception: each command imports what it needs, so that `--help` is quick."""
    late = [f"line {line}: {target}" for target, line, inside, _ in imports(MODULES[name]) if inside]
    assert not late or name in LATE, late


def floor_of(module):
    """By the longest name that the table has: a room as a whole, or a module of it that stands higher."""
    parts = module.split(".")[1:]
    for length in (2, 1):
        for level, rooms in enumerate(FLOORS):
            if ".".join(parts[:length]) in rooms:
                return level
    return None


def test_dependencies_point_downwards():
    wrong = []
    for name, targets in graph().items():
        if name in ("roster", "roster.mixture"):
            continue
        assert floor_of(name) is not None, f"{name}: which floor is it on?"
        wrong += [
            f"{name} -> {target}" for target in targets if target != "roster" and floor_of(name) < floor_of(target)
        ]
    assert wrong == []


def test_the_first_import_is_light():
    code = "import sys, roster, roster.cli; print(sorted({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_experts_are_listed_without_torch():
    code = (
        "import sys\n"
        "from roster.cli import app\n"
        "app(['experts', 'list', 'pocket'], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'peft', 'sklearn'} & sys.modules.keys()))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "reverse" in told
    assert told.splitlines()[-1] == "[]"


def test_old_names_still_work_and_say_where_to_look():
    from roster.adapters.attach import attach as new

    with pytest.warns(DeprecationWarning, match=r"roster\.adapters\.attach\.attach now"):
        from roster.mixture.attach import attach

    assert attach is new
    with pytest.warns(DeprecationWarning, match=r"roster\.routed\.becoming\.detach now"):
        from roster.mixture.attach import detach  # noqa: F401
    with pytest.raises(ImportError):
        from roster.mixture.attach import nothing  # noqa: F401
    with pytest.warns(DeprecationWarning, match=r"roster\.adapters\.merging\.truncate now"):
        from roster.merge.experts import truncate  # noqa: F401
