"""The walk over one function: what in it, and in the functions nested in it, would not replay.

What is only passed to `step(...)` is not walked: lambdas as its first argument, and nested functions or lambdas whose
name appears nowhere else. Calls of functions of the module are collected in `calls` for the caller to follow.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Set
from dataclasses import dataclass

from ._check_names import Binding, Function, Scope, header, own_nodes
from ._check_rules import LOOP_METHODS, METHODS, MUTATORS, PATH_METHODS, RULES, SEEDED, STEP, call_rule

_AWAITED = {f"regrow.{n}" for n in ("agent", "machine", "sleep", "step", "wait")} | {"asyncio.sleep"}
_ORDERLESS = {f"builtins.{n}" for n in ("all", "any", "frozenset", "len", "max", "min", "set", "sorted", "sum")}
_ORDERED = {f"builtins.{n}" for n in ("dict.fromkeys", "enumerate", "filter", "iter", "list", "map", "tuple", "zip")}
_CONTAINERS = {f"builtins.{n}" for n in ("bytearray", "dict", "list", "set")} | {
    f"collections.{n}" for n in ("Counter", "OrderedDict", "defaultdict", "deque")
}
_SORTED = "`for … in sorted(…)`, or a dict or list, which keep their order"
_STATE = "Variables of the body, or another process that holds it"


@dataclass(frozen=True)
class Found:
    """A finding before its place in a file is known."""

    node: ast.AST
    code: str
    what: str
    instead: str


def api_name(scope: Scope, node: ast.expr) -> str | None:
    """The dotted name of a callable; `regrow.NAME` for the API, from whichever of its modules but `regrow.ramure`."""
    name = scope.resolve(node)
    if name and name.startswith("regrow.") and not name.startswith("regrow.ramure."):
        return f"regrow.{name.rpartition('.')[2]}"
    return name


class BodyVisitor(ast.NodeVisitor):
    """Walks one function, with the scope that each node is in.

    Attributes:
        calls: functions out of `helpers` that it calls, to be walked too.
    """

    def __init__(self, around: Scope, helpers: Set[Function]) -> None:
        self.calls: list[Function] = []
        self._scope = around
        self._helpers = helpers
        self._found: list[Found] = []
        self._orderless: set[int] = set()

    def check(self, function: Function) -> list[Found]:
        """Everything found in `function`."""
        self._visit_scope(function)
        return self._found

    def _add(self, node: ast.AST, code: str, what: str, instead: str) -> None:
        self._found.append(Found(node, code, what, instead))

    # Scopes ------------------------------------------------------------------------------------------------------

    def _visit_scope(self, node: Function | ast.Lambda) -> None:
        outer, self._scope = self._scope, Scope(node, self._scope)
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else [*node.body]
        in_steps = set(self._only_in_steps(body))
        self._check_dropped(body)
        for statement in body:
            if not _defines(statement, in_steps):
                self.visit(statement)
        self._scope = outer

    def visit_FunctionDef(self, node: Function | ast.Lambda) -> None:
        for part in header(node):
            self.visit(part)
        self._visit_scope(node)

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef  # noqa: N815

    def _only_in_steps(self, body: list[ast.AST]) -> Iterator[str]:
        """Names that are used, and only as (part of) the first argument of a step."""
        everywhere: dict[str, int] = {}
        in_steps: dict[str, int] = {}
        for node in (inner for part in body for inner in ast.walk(part)):
            _count(node, everywhere)
            if isinstance(node, ast.Call) and node.args and api_name(self._scope, node.func) == "regrow.step":
                parts = list(ast.walk(node.args[0]))
                called = {id(part.func) for part in parts if isinstance(part, ast.Call)}
                for part in parts:
                    if id(part) not in called:
                        _count(part, in_steps)
        yield from (name for name, count in in_steps.items() if everywhere[name] == count)

    def _check_dropped(self, body: list[ast.AST]) -> None:
        """A step whose awaitable is put into a variable that nobody reads."""
        read: dict[str, int] = {}
        for part in body:
            for node in ast.walk(part):
                _count(node, read)
        for node in own_nodes(body):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call) if name not in read:
                    self._check_awaited(call)
                case _:
                    pass

    def _check_awaited(self, call: ast.expr) -> None:
        if isinstance(call, ast.Call) and api_name(self._scope, call.func) in _AWAITED:
            shown = ast.unparse(call.func)
            self._add(call, "RG013", f"`{shown}(…)` is not awaited", f"`await {shown}(…)`")

    # Calls -------------------------------------------------------------------------------------------------------

    def visit_Call(self, node: ast.Call) -> None:
        name = self._scope.resolve(node.func)
        self._check_call(node, name)
        self._check_orders(node, name)
        function = self._scope.function(node.func)
        if function in self._helpers and function is not None:
            self.calls.append(function)
        self.visit(node.func)
        is_step = api_name(self._scope, node.func) == "regrow.step"
        for n, argument in enumerate(node.args):
            if not (is_step and n == 0 and isinstance(argument, ast.Lambda)):
                self.visit(argument)
        for keyword in node.keywords:
            self.visit(keyword)

    def _check_call(self, node: ast.Call, name: str | None) -> None:
        if name in SEEDED:
            if not node.args and not node.keywords:
                self._add(node, "RG003", f"`{ast.unparse(node)}` without a seed", SEEDED[name])
            return
        rule = call_rule(name) if name else None
        if rule is not None and name is not None:
            if rule[0] == "RG004" and all(isinstance(argument, ast.Constant) for argument in node.args):
                return
            shown, dotted = ast.unparse(node.func), name.removeprefix("builtins.")
            alias = "" if shown == dotted else f" is `{dotted}()`"
            self._add(node, rule[0], f"`{shown}()`{alias} ({RULES[rule[0]].title})", rule[1])
        elif isinstance(node.func, ast.Attribute):
            self._check_method(node, node.func)

    def _check_method(self, node: ast.Call, method: ast.Attribute) -> None:
        kind = self._scope.kind(method.value)
        shown, attr = f"`{_short(method)}()`", method.attr
        if attr in METHODS:
            code, instead = METHODS[attr]
            self._add(node, code, f"{shown} ({RULES[code].title})", instead.replace("{name}", f"{_short(method)}"))
        elif kind == "path" and attr in PATH_METHODS:
            self._add(node, "RG005", f"{shown} ({RULES['RG005'].title})", STEP.replace("{name}", _short(method)))
        elif kind == "loop" and attr in LOOP_METHODS:
            code = LOOP_METHODS[attr]
            self._add(node, code, f"{shown} ({RULES[code].title})", 'A step, or a `resume="restart"` body')
        elif kind == "set" and attr == "pop":
            self._add(node, "RG009", f"{shown} takes whichever element is first", "`min(…)`, or a dict or list")
        elif attr in MUTATORS:
            found = self._scope.module_variable(method.value)
            if found and self._is_container(found[1]):
                self._add(node, "RG011", f"{shown} changes `{found[0]}` of the module", _STATE)

    def _is_container(self, binding: Binding) -> bool:
        literal = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
        made_by = [value.func for value in binding.values if isinstance(value, ast.Call)]
        if isinstance(binding.annotation, ast.Subscript):
            made_by.append(binding.annotation.value)
        elif binding.annotation is not None:
            made_by.append(binding.annotation)
        return any(isinstance(value, literal) for value in binding.values) or any(
            self._scope.resolve(name) in _CONTAINERS for name in made_by
        )

    # The order of sets -------------------------------------------------------------------------------------------

    def _check_orders(self, node: ast.Call, name: str | None) -> None:
        if name in _ORDERLESS:
            self._orderless.update(id(argument) for argument in node.args)
        joins = isinstance(node.func, ast.Attribute) and node.func.attr in {"join", "extend"}
        if (name in _ORDERED or joins) and id(node) not in self._orderless:
            for argument in node.args:
                self._check_order(argument)

    def _check_order(self, node: ast.expr) -> None:
        if self._scope.kind(node) == "set":
            self._add(node, "RG009", f"the order of the set `{_short(node)}` is used", _SORTED)

    def visit_For(self, node: ast.For) -> None:
        self._check_order(node.iter)
        self.generic_visit(node)

    def visit_YieldFrom(self, node: ast.YieldFrom) -> None:
        self._check_order(node.value)
        self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp | ast.GeneratorExp | ast.DictComp) -> None:
        if id(node) not in self._orderless:
            for generator in node.generators:
                self._check_order(generator.iter)
        self.generic_visit(node)

    visit_GeneratorExp = visit_DictComp = visit_ListComp  # noqa: N815

    def visit_Set(self, node: ast.Set) -> None:
        self._orderless.update(id(element) for element in node.elts)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        if id(node) not in self._orderless and isinstance(node.ctx, ast.Load):
            self._check_order(node.value)
        self.generic_visit(node)

    # Module state and environment --------------------------------------------------------------------------------

    def visit_Global(self, node: ast.Global) -> None:
        self._add(node, "RG011", f"`global {', '.join(node.names)}`", _STATE)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, (ast.Tuple, ast.List)):
                self._check_order(node.value)
        self._check_targets(node.targets)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign | ast.AnnAssign) -> None:
        self._check_targets([node.target])
        self.generic_visit(node)

    visit_AnnAssign = visit_AugAssign  # noqa: N815

    def visit_Delete(self, node: ast.Delete) -> None:
        self._check_targets(node.targets)
        self.generic_visit(node)

    def _check_targets(self, targets: list[ast.expr]) -> None:
        for target in targets:
            if isinstance(target, (ast.Tuple, ast.List)):
                self._check_targets(target.elts)
            elif isinstance(target, (ast.Attribute, ast.Subscript)):
                found = self._scope.module_variable(target)
                if found:
                    self._add(target, "RG011", f"`{_short(target)}` changes `{found[0]}` of the module", _STATE)

    def visit_Attribute(self, node: ast.Attribute | ast.Name) -> None:
        if self._scope.resolve(node) == "os.environ":
            instead = "An argument of the process, or `await step(os.getenv, …)`"
            self._add(node, "RG012", "`os.environ` (environment)", instead)
        self.generic_visit(node)

    visit_Name = visit_Attribute  # noqa: N815

    def visit_Expr(self, node: ast.Expr) -> None:
        self._check_awaited(node.value)
        self.generic_visit(node)


def _short(node: ast.expr) -> str:
    """Source of an expression, cut to what fits into a message."""
    text = ast.unparse(node)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _count(node: ast.AST, counts: dict[str, int]) -> None:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        counts[node.id] = counts.get(node.id, 0) + 1


def _defines(statement: ast.AST, names: set[str]) -> bool:
    """Whether a statement does nothing but define an undecorated function or lambda with one of the names."""
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return statement.name in names and not statement.decorator_list
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Lambda()):
            return name in names
        case _:
            return False
