"""A static check of process bodies: what in them would not replay (`regrow check FILE`).

A body decorated with `@agent_process` is folded again from its inbox after a crash, so it must do the same again: no
clock, randomness, I/O, threads, module state or order of sets outside `step(...)`. `check_source` finds the obvious
ones, in the body, in functions nested in it and in functions of the same module that it calls, but not in what is only
passed to `step(...)`. What it cannot see (methods of objects, imported helpers) a forced replay in tests finds.

Bodies with `resume="restart"` may do all that: of them only notes and mistakes of form (RG013 to RG017) are reported.
`# regrow: ignore[RG001]` on the line suppresses that code, `# regrow: ignore` all of them. The codes and their reasons
are `regrow._check_rules.RULES`.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import Path

from ._check_body import BodyVisitor, api_name
from ._check_names import Function, Scope, functions
from ._check_rules import RULES, Severity

_IGNORE = re.compile(r"#\s*regrow:\s*ignore(?:\[([A-Z0-9,\s]+)\])?")
_ANY_MODE = frozenset({"RG013", "RG014", "RG015", "RG016", "RG017"})
"""Codes that count for `resume="restart"` bodies too."""


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that would not replay, and where.

    Attributes:
        path, line, column: the place; lines and columns count from 1.
        code: `RG001`, …; its title and reason are in `RULES`.
        what: what stands there.
        why: why it does not replay.
        instead: what to write instead.
        severity: `error`, or `note` for what is harmless.
        process: the process type whose body leads there, or the empty string.
    """

    path: str
    line: int
    column: int
    code: str
    what: str
    why: str
    instead: str
    severity: Severity = "error"
    process: str = ""

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}:{self.column}"
        return f"{where}: {self.code} {self.severity}: {self.what}. {self.why} Instead: {self.instead}"


def check_file(path: str | Path) -> list[Finding]:
    """The findings of a Python file, in the order of its lines; OSError when it cannot be read."""
    try:
        with tokenize.open(path) as file:  # obeys the file's coding line
            source = file.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        return [_unreadable(str(path), error)]
    return check_source(source, str(path))


def check_source(source: str, path: str) -> list[Finding]:
    """The findings of a Python source, in the order of its lines; what does not parse is one finding, `RG000`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" is the file's owner's affair
            tree = ast.parse(source, path)
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        return [_unreadable(path, error)]
    return _Check(tree, path, _ignored(source)).run()


def _unreadable(path: str, error: SyntaxError | ValueError) -> Finding:
    line, column = getattr(error, "lineno", None) or 1, getattr(error, "offset", None) or 1
    what = getattr(error, "msg", "") or str(error)
    return Finding(path, line, column, "RG000", f"not Python: {what}", RULES["RG000"].why, "Python that parses")


def _ignored(source: str) -> dict[int, frozenset[str]]:
    """Suppressed codes by line; all of them where the comment names none."""
    found: dict[int, frozenset[str]] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        match = _IGNORE.search(token.string) if token.type == tokenize.COMMENT else None
        if match:
            codes = re.findall(r"[A-Z0-9]+", match[1] or "")
            found[token.start[0]] = frozenset(codes or RULES)
    return found


class _Check:
    """The check of one module: finds the bodies, follows their calls, collects findings once per place."""

    def __init__(self, tree: ast.Module, path: str, ignored: dict[int, frozenset[str]]) -> None:
        self._path = path
        self._ignored = ignored
        self._found: dict[tuple[int, int, str], Finding] = {}
        module = Scope(tree)
        self._scopes = dict(functions(tree, module))
        self._helpers = {
            function for function, scope in self._scopes.items() if scope is module and not _is_process(function, scope)
        }

    def run(self) -> list[Finding]:
        bodies: list[tuple[Function, bool]] = []
        for function, scope in self._scopes.items():
            self._check_form(function, scope)
            bodies += [(function, _replays(decorator)) for decorator in _process_decorators(function, scope)]
        for function, replays in sorted(bodies, key=lambda body: body[0].lineno):
            self._check_body(function, replays)
        return sorted(self._found.values())

    def _add(self, node: ast.AST, code: str, what: str, instead: str, process: str, last: int | None = None) -> None:
        """Record a finding at `node`, unless a comment on one of its lines (up to `last`) suppresses it."""
        line, column = int(getattr(node, "lineno", 1)), int(getattr(node, "col_offset", 0)) + 1
        last = last or int(getattr(node, "end_lineno", None) or line)
        if any(code in self._ignored.get(n, ()) for n in range(line, last + 1)):
            return
        rule = RULES[code]
        finding = Finding(self._path, line, column, code, what, rule.why, instead, rule.severity, process)
        self._found.setdefault((line, column, code), finding)

    def _check_form(self, function: Function, scope: Scope) -> None:
        """Mistakes in how a process or an endpoint is declared."""
        last = max(function.lineno, function.body[0].lineno - 1)
        is_async = isinstance(function, ast.AsyncFunctionDef)
        for decorator in function.decorator_list:
            endpoint = api_name(scope, _called(decorator)) == "regrow.expose" or _makes_tool(decorator, scope)
            if endpoint and not is_async:
                what = f"`@{ast.unparse(_called(decorator))}` on the sync function `{function.name}`"
                self._add(decorator, "RG015", what, f"`async def {function.name}`", "", last)
        for decorator in _process_decorators(function, scope):
            if not scope.holds(function):
                what = f"`@agent_process` on `{function.name}`, which is inside another function or class"
                self._add(decorator, "RG014", what, "Define it at the top level of the module", function.name, last)
            if not is_async:
                what = f"`@agent_process` on the sync function `{function.name}`"
                self._add(decorator, "RG017", what, f"`async def {function.name}`", function.name, last)

    def _check_body(self, function: Function, replays: bool) -> None:
        """Check a body and, once each, the functions of the module that it calls."""
        seen: set[Function] = set()
        waiting = [function]
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                where = "" if current is function else f" in `{current.name}`, which process `{function.name}` calls"
                visitor = BodyVisitor(self._scopes[current], self._helpers)
                for found in visitor.check(current):
                    if replays or found.code in _ANY_MODE:
                        self._add(found.node, found.code, found.what + where, found.instead, function.name)
                waiting += visitor.calls


def _called(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def _makes_tool(decorator: ast.expr, scope: Scope) -> bool:
    """Whether it is `@worker.on`, where `worker` is bound to what `await agent(…)` gave."""
    on = _called(decorator)
    if not isinstance(on, ast.Attribute) or on.attr != "on" or not isinstance(on.value, ast.Name):
        return False
    found = scope.find(on.value.id)
    return found is not None and any(_is_agent(value, found[0]) for value in found[1].values)


def _is_agent(value: ast.expr, scope: Scope) -> bool:
    call = value.value if isinstance(value, ast.Await) else None
    return isinstance(call, ast.Call) and api_name(scope, call.func) == "regrow.agent"


def _process_decorators(function: Function, scope: Scope) -> list[ast.expr]:
    return [d for d in function.decorator_list if api_name(scope, _called(d)) == "regrow.agent_process"]


def _is_process(function: Function, scope: Scope) -> bool:
    return bool(_process_decorators(function, scope))


def _replays(decorator: ast.expr) -> bool:
    """Whether `@agent_process(…)` leaves the body to be replayed: everything but a literal `resume="restart"`."""
    keywords = decorator.keywords if isinstance(decorator, ast.Call) else []
    for keyword in keywords:
        if keyword.arg == "resume" and isinstance(keyword.value, ast.Constant):
            return keyword.value.value != "restart"
    return True
