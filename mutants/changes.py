"""The small changes: cosmic-ray's operators, one more that deletes statements, and where none of them is applied.

Left alone, since nothing that a test should hold depends on it: docstrings, annotations, `raise` statements (the words
of an error), what logs, `__repr__` and its like, code for type checkers, `__all__`, and decorators without which a file
means something else altogether (`@property`). Operators that mostly make nonsense (`+` into `<<`) are not used.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

BINARY = "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul BitOr_BitAnd BitAnd_BitOr"
COMPARED = "Eq_NotEq NotEq_Eq Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Is_IsNot IsNot_Is"
FAMILIES = {
    "arithmetic": [f"ReplaceBinaryOperator_{each}" for each in BINARY.split()],
    "comparison": [f"ReplaceComparisonOperator_{each}" for each in COMPARED.split()],
    "sign or not": [f"ReplaceUnaryOperator_Delete_{each}" for each in ("Not", "USub", "Invert")],
    "condition": ["AddNot"],
    "constant": ["NumberReplacer", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"],
    "and, or": ["ReplaceAndWithOr", "ReplaceOrWithAnd"],
    "loop": ["ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop"],
    "exception": ["ExceptionReplacer"],
    "decorator": ["RemoveDecorator"],
    "statement": ["DeleteStatement"],
}
FAMILY = {name: family for family, names in FAMILIES.items() for name in names}
# The types of nodes that any of the operators changes; asking them about every name would take several times as long.
CHANGED_NODES = {"operator", "keyword", "number", "comparison", "factor", "not_test", "test", "simple_stmt"}
CHANGED_NODES |= {"if_stmt", "while_stmt", "assert_stmt", "for_stmt", "except_clause", "decorator"}
NO_EFFECT_CALLS = ("log.", "logger.", "logging.", "warnings.")
NEEDED_DECORATORS: tuple[str, ...] = ("property", ".setter", "dataclass", "staticmethod", "classmethod", "overload")
NEEDED_DECORATORS += ("abstractmethod", "override", "contextmanager", "register")
WORDS = ("__repr__", "__str__", "extra_repr", "describe")


class DeleteStatement(Operator):  # type: ignore[misc]
    """Puts `pass` in place of a call whose result nobody keeps, an assignment to a part of something, or a `+=`.

    Not for what a constructor sets: any use of the object would fail, and the score would look better than the tests
    are.
    """

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """Where such statements stand."""
        if node.type == "simple_stmt" and self._deletable(node.children[0]) and not _in_constructor(node):
            yield node.start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The node with `pass` in it."""
        prefix = node.children[0].get_first_leaf().prefix
        node.children[0] = parso.python.tree.Name("pass", node.start_pos, prefix)
        return node

    @staticmethod
    def _deletable(statement: Any) -> bool:
        if statement.type in ("atom_expr", "await"):
            return True
        if statement.type != "expr_stmt":
            return False
        target, operator = statement.children[:2]
        changes_it = operator.type == "operator" and operator.value != "="
        return bool(changes_it or target.type == "atom_expr")

    @classmethod
    def examples(cls) -> tuple[()]:
        """None: cosmic-ray's own tests use them."""
        return ()


@dataclass(frozen=True)
class Change:
    """One change, before it is made. `key` stays the same when other lines of the file move."""

    key: str
    path: str
    line: int
    function: str
    family: str
    operator: str
    occurrence: int
    position: tuple[int, int]
    text: str  # the line as it stands

    def apply(self, source: str) -> str:
        """The whole file with this change made."""
        changed = mutate_code(source, _operator(self.operator), self.occurrence)
        if changed is None:
            raise ValueError(f"{self.path}:{self.line}: {self.operator} has no occurrence {self.occurrence}")
        return str(changed)


def changes_of(path: str, source: str) -> list[Change]:
    """Every change that may be made to a file.

    Args:
        path: of the file, below the root.
        source: its text.
    """
    barred, scopes = _barred(source), _Scopes(source)
    lines = source.splitlines()
    found: list[Change] = []
    seen: Counter[tuple[str, ...]] = Counter()
    for name, occurrence, (line, column) in _positions(source):
        text, scope = lines[line - 1].strip(), scopes.at(line)
        if any(start <= (line, column) < end for start, end in barred):
            continue
        if name == "RemoveDecorator" and any(each in text for each in NEEDED_DECORATORS):
            continue
        twin = (scope, text, name)
        seen[twin] += 1
        key = hashlib.sha256("|".join([path, *twin, str(seen[twin])]).encode()).hexdigest()[:16]
        found.append(Change(key, path, line, scope, FAMILY[name], name, occurrence, (line, column), text))
    return found


def lines_to_run(source: str, line: int) -> range | None:
    """The lines that a test must run in order to notice a change of `line`; None: any of the file.

    A statement's own lines, without the body below it; a signature's are those of the function's body, as its defaults
    are read there; what stands outside of functions is run by imports.
    """
    lines: range | None = None
    for node in _statements(ast.parse(source), line):
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        body: list[ast.stmt] = getattr(node, "body", [])
        end = body[0].lineno - 1 if body and not function else node.end_lineno or node.lineno
        if function:
            lines = range(body[0].lineno, end + 1)
        elif lines is not None:
            lines = range(node.lineno, max(end, node.lineno) + 1)
    return lines


def _statements(tree: ast.AST, line: int) -> Iterator[Any]:
    """The statements around a line, the outermost first."""
    for child in ast.iter_child_nodes(tree):
        decorators = [each.lineno for each in getattr(child, "decorator_list", [])]
        begin = min([getattr(child, "lineno", 0), *decorators])
        if begin <= line <= (getattr(child, "end_lineno", 0) or 0):
            if isinstance(child, ast.stmt):
                yield child
            yield from _statements(child, line)


def _operator(name: str) -> Any:
    return DeleteStatement() if name == "DeleteStatement" else get_operator(f"core/{name}")()


def _positions(source: str) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """(operator, which of its occurrences, where), counted in the order in which cosmic-ray visits."""
    operators = {name: _operator(name) for name in FAMILY}
    occurrences: Counter[str] = Counter()
    for node in (each for each in ast_nodes(get_ast(source)) if each.type in CHANGED_NODES):
        for name, operator in operators.items():
            for start, _ in operator.mutation_positions(node):
                yield name, occurrences[name], tuple(start)
                occurrences[name] += 1


def _in_constructor(node: Any) -> bool:
    function: Any = node.search_ancestor("funcdef")
    return function is not None and function.name.value == "__init__"


class _Scopes:
    """Which function or class a line stands in."""

    def __init__(self, source: str) -> None:
        self.spans: list[tuple[int, int, str]] = []
        self._walk(ast.parse(source), "")

    def _walk(self, node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{name}.{child.name}".lstrip(".")
                self.spans.append((child.lineno, child.end_lineno or child.lineno, inner))
            self._walk(child, inner)

    def at(self, line: int) -> str:
        inside = [span for span in self.spans if span[0] <= line <= span[1]]
        return max(inside, key=lambda span: span[0])[2] if inside else ""


Span = tuple[tuple[int, int], tuple[int, int]]


def _barred(source: str) -> list[Span]:
    """The stretches of a file in which nothing is changed."""
    spans: list[Span] = []
    for node in ast.walk(ast.parse(source)):
        spans += [_span(each) for each in _left_alone(node)]
    return spans


def _left_alone(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        whole: list[ast.AST] = [node] if node.name in WORDS else []
        return whole + ([node.returns] if node.returns else [])
    if isinstance(node, ast.arg | ast.AnnAssign):
        return [node.annotation] if node.annotation else []
    if isinstance(node, ast.If):
        return [node] if "TYPE_CHECKING" in ast.unparse(node.test) else []
    if isinstance(node, ast.Expr):
        said = ast.unparse(node.value)
        return [node] if isinstance(node.value, ast.Constant) or said.startswith(NO_EFFECT_CALLS) else []
    if isinstance(node, ast.Assign):
        names = ast.unparse(node.targets[0])
        typing = "TypeVar" in ast.unparse(node.value) or names in ("__all__", "__slots__")
        return [node] if typing else []
    return [node] if isinstance(node, ast.Raise) else []


def _span(node: Any) -> Span:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
