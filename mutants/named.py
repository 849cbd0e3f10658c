"""Which test files speak of a source file: by its name, and by the classes and functions that it defines.

For a first look that needs no measurement (`python -m mutants --quick`): what such tests notice is noticed; what they
do not is left to the tests that run the line.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from mutants.rooms import FIRST, test_files

MOST = 4  # files for one change


def files_naming(tree: Path, source: str, room: str) -> list[str]:
    """The test files that speak most of a source file, the best first.

    Args:
        tree: a copy of the checkout.
        source: path of the file in it.
        room: whose tests come first.
    """
    body = ast.parse((tree / source).read_text(encoding="utf-8")).body
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    defined = [each.name for each in body if isinstance(each, kinds) and not each.name.startswith("_")]
    stem = Path(source).stem
    ranked = []
    for name in test_files(tree):
        text = (tree / name).read_text(encoding="utf-8")
        named = sum(bool(re.search(rf"\b{each}\b", text)) for each in defined)
        same = Path(name).stem == f"test_{stem}"
        beside = Path(name).parent.name == Path(source).parent.name
        if named or same or f".{stem} " in text:
            ranked.append((-(4 * same + 2 * beside + min(named, 3)), len(text), name))
    first = [f"tests/{each}.py" for each in FIRST.get(room, "").split()]
    return list(dict.fromkeys([*first, *(name for _, _, name in sorted(ranked))]))[:MOST]
