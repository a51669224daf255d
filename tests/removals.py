"""What can be taken out of a module, one thing at a time.

A statement of a function, but for one that gives a name its only value; what an `except` catches; a
`finally` or a `with`; a condition, or one of its operands; a keyword argument; a call that hides a
secret; what hides or checks a field. What defends something must be missed by a test when it is
gone: `removing.py` looks whether it is.
"""

# ruff: noqa: N815 - the names that the parser gives.

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

from attrs import field, frozen

# A call of these is replaced by its first argument, which then is not hidden.
HIDING = {"redact", "strip", "without_token"}
# Of what a class says of a field.
DEFENDING = {"converter", "repr", "validator"}
NOTHING = "__import__('contextlib').nullcontext()"


@frozen
class Removal:
    """:ivar lines: of the module, where the tests that may miss it come by: the nearest first
    :ivar text: of the module without it
    """

    lines: tuple[int, ...]
    words: str
    text: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.lines[0]}: {self.words}"


def removals(text: str) -> list[Removal]:
    """All of a module, in the order of its lines."""
    return sorted(_Visitor(text).found(), key=lambda removal: removal.lines)


class _Visitor(ast.NodeVisitor):
    def __init__(self, text: str) -> None:
        self._text = text.encode()
        lines = self._text.splitlines(keepends=True)
        self._starts = [sum(map(len, lines[:n])) for n in range(len(lines))]
        self._found: dict[tuple[int, int, str], tuple[tuple[int, ...], str]] = {}
        self._statements: list[int] = []
        self._bound: Counter[str] = Counter()
        self.visit(ast.parse(text))

    def found(self) -> Iterator[Removal]:
        for (start, end, put), (lines, words) in self._found.items():
            changed = (self._text[:start] + put.encode() + self._text[end:]).decode()
            taken = " ".join(self._text[start:end].decode().split())
            with suppress(SyntaxError):  # As a `nonlocal` of what is bound nowhere now.
                compile(changed, taken, "exec")
                yield Removal(lines, f"{words}: {taken}", changed)

    def _take(self, start: ast.AST, put: str, words: str, *, end: ast.AST | None = None) -> None:
        self._take_from(*self._span(start, end or start), put, words, start.lineno)

    def _take_from(self, start: int, end: int, put: str, words: str, line: int) -> None:
        lines = tuple(dict.fromkeys([line, *reversed(self._statements)]))
        self._found.setdefault((start, end, put), (lines, words))

    def _span(self, start: ast.AST, end: ast.AST) -> tuple[int, int]:
        return (
            self._starts[start.lineno - 1] + start.col_offset,
            self._starts[end.end_lineno - 1] + end.end_col_offset,
        )

    def _source(self, node: ast.AST) -> str:
        start, end = self._span(node, node)
        return self._text[start:end].decode()

    # Where it looks: into functions, and at the fields of classes. What a module has by itself is
    # missed by every import.

    def visit(self, node: ast.AST) -> None:
        is_statement = isinstance(node, ast.stmt)
        if is_statement:
            self._statements.append(node.lineno)
        super().visit(node)
        if is_statement:
            self._statements.pop()

    def visit_Module(self, node: ast.Module) -> None:
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.visit(part)
            elif isinstance(part, ast.AnnAssign) and isinstance(part.value, ast.Call):
                for keyword in part.value.keywords:
                    if keyword.arg in DEFENDING:
                        self._take_argument(keyword)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outside, self._bound = self._bound, Counter()
        for part in ast.walk(node):
            if isinstance(part, ast.arg):
                self._bound[part.arg] += 1
            elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                self._bound[part.id] += 1
        for statement in node.body[ast.get_docstring(node) is not None :]:
            self.visit(statement)
        self._bound = outside

    visit_AsyncFunctionDef = visit_FunctionDef

    # Statements.

    def _leave_out(self, node: ast.stmt) -> None:
        self._take(node, "pass", "without")
        self.generic_visit(node)

    visit_Assert = visit_Return = visit_Delete = visit_Break = visit_Continue = visit_AugAssign = (
        _leave_out
    )

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant | ast.Yield | ast.YieldFrom):
            self._leave_out(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.cause is not None:
            self._take(node, f"raise {self._source(node.exc)}", "without from")
        self._leave_out(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Of a name that has no other value there would be a NameError, which says nothing."""
        parts = [part for target in node.targets for part in ast.walk(target)]
        names = [
            part.id
            for part in parts
            if isinstance(getattr(part, "ctx", None), ast.Store) and isinstance(part, ast.Name)
        ]
        if all(self._bound[name] > 1 for name in names):
            self._leave_out(node)
        else:
            self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and not isinstance(node.target, ast.Name):
            self._leave_out(node)
        elif node.value is not None:
            self.visit(node.value)

    def visit_Try(self, node: ast.Try) -> None:
        for handler in node.handlers:
            if handler.type is None:
                continue
            self._take(handler.type, "()", "not caught")
            for one in getattr(handler.type, "elts", ()):
                self._take(one, "()", "not caught")
        if len(node.finalbody) > 1:
            self._take(node.finalbody[0], "pass", "no finally", end=node.finalbody[-1])
        self.generic_visit(node)

    visit_TryStar = visit_Try

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            if item.optional_vars is None:
                self._take(item.context_expr, NOTHING, "without")
        self.generic_visit(node)

    visit_AsyncWith = visit_With

    # Conditions.

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        # A name that a condition gives is wanted behind it.
        evaluated = f"[{self._source(node.test)}]" if _gives_a_name(node.test) else "True"
        self._take(node.test, f"{evaluated} and False", "never")
        self._take(node.test, evaluated, "always")
        self.generic_visit(node)

    visit_IfExp = visit_If

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._take(node.test, "False", "never")
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            if not _gives_a_name(test):
                self._take(test, "True", "always")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        word = " and " if isinstance(node.op, ast.And) else " or "
        for dropped in node.values:
            rest = [f"({self._source(value)})" for value in node.values if value is not dropped]
            if not _gives_a_name(dropped):
                self._take(node, f"({word.join(rest)})", f"without {self._source(dropped)}")
        self.generic_visit(node)

    # Calls.

    def visit_Call(self, node: ast.Call) -> None:
        called = getattr(node.func, "id", None)
        for keyword in node.keywords:
            if keyword.arg is not None:
                self._take_argument(keyword)
        if called in HIDING and node.args:
            self._take(node, self._source(node.args[0]), "without")
        self.generic_visit(node)

    def _take_argument(self, keyword: ast.keyword) -> None:
        start, end = self._span(keyword, keyword)
        behind = self._text[end:].lstrip()
        if behind.startswith(b","):
            end = len(self._text) - len(behind) + 1
        self._take_from(start, end, "", "without", keyword.lineno)


def _gives_a_name(node: ast.AST) -> bool:
    return any(isinstance(part, ast.NamedExpr) for part in ast.walk(node))
