"""Names in a Python source, as far as they can be known without running it: scopes, imports, and three kinds of value.

`Scope.resolve` gives the dotted name that an expression stands for through any import alias (`from time import time as
t` makes `t` stand for `time.time`), and None for local variables and what cannot be known. `Scope.kind` tells whether
an expression is certainly a `set`, a `path` or the `loop`: a variable counts when all its assignments agree.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Kind = Literal["set", "path", "loop"]

_SET_TYPES = {"builtins.set", "builtins.frozenset", "typing.Set", "typing.FrozenSet", "typing.AbstractSet"} | {
    *("typing.MutableSet", "collections.abc.Set", "collections.abc.MutableSet")
}
_SET_METHODS = {"union", "intersection", "difference", "symmetric_difference", "copy"}
_PATH_TYPES = {"pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath"}
_PATH_METHODS = {"absolute", "expanduser", "joinpath", "relative_to", "rename", "resolve", "with_name", "with_suffix"}
_LOOPS = {"asyncio.get_running_loop", "asyncio.get_event_loop", "asyncio.new_event_loop"}
_OPAQUE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_KNOWN_STARS = {
    "regrow": ("agent", "agent_process", "expose", "machine", "now", "random", "sleep", "step", "uuid4", "wait"),
    "time": ("monotonic", "perf_counter", "sleep", "time"),
    "random": ("choice", "choices", "randint", "random", "randrange", "sample", "shuffle", "uniform"),
    "pathlib": ("Path",),
}


@dataclass
class Binding:
    """What a name of one scope is bound to."""

    imported: str | None = None
    functions: list[Function] = field(default_factory=list)
    values: list[ast.expr] = field(default_factory=list)
    annotation: ast.expr | None = None
    opaque: bool = False
    """Also bound in a way that tells nothing: a loop variable, a parameter without annotation, …"""


def functions(tree: ast.Module, module: Scope) -> Iterator[tuple[Function, Scope]]:
    """Every function of a module, however nested, with the scope around it."""
    waiting: list[tuple[list[ast.AST], Scope]] = [([*tree.body], module)]
    while waiting:
        statements, scope = waiting.pop()
        for node in own_nodes(statements):
            if isinstance(node, ast.ClassDef):
                waiting.append(([*node.body], scope))
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield node, scope
                waiting.append(([*node.body], Scope(node, scope)))


def own_nodes(statements: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of one scope: those of nested functions, lambdas and classes are theirs, but for their headers."""
    stack: list[ast.AST] = list(statements)
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, _OPAQUE):
            stack.extend(header(node))
        else:
            stack.extend(ast.iter_child_nodes(node))


def header(node: ast.AST) -> list[ast.AST]:
    """What of a nested function, lambda or class is evaluated in the scope around it."""
    found: list[ast.AST] = []
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        found += node.decorator_list
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        found += [default for default in (*node.args.defaults, *node.args.kw_defaults) if default is not None]
    if isinstance(node, ast.ClassDef):
        found += [*node.bases, *(keyword.value for keyword in node.keywords)]
    return found


def _agreed(kinds: list[Kind | None]) -> Kind | None:
    return kinds[0] if kinds and kinds.count(kinds[0]) == len(kinds) else None


class Scope:
    """The names bound in a module, function or lambda, and through `parent` those around it."""

    def __init__(self, node: ast.Module | Function | ast.Lambda, parent: Scope | None = None) -> None:
        self.parent = parent
        self.bindings: dict[str, Binding] = {}
        self.globals: set[str] = set()
        self._nonlocals: set[str] = set()
        self._targets: set[int] = set()
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else [*node.body]
        if not isinstance(node, ast.Module):
            self._bind_parameters(node.args)
        for child in own_nodes(body):
            self._bind(child)
        for name in self.globals | self._nonlocals:
            self.bindings.pop(name, None)

    def find(self, name: str) -> tuple[Scope, Binding] | None:
        """The scope that binds `name` and its binding there; None for builtins and unknown names."""
        if name in self.globals:
            module = self
            while module.parent is not None:
                module = module.parent
            return module.find(name) if module is not self else None
        if name in self.bindings:
            return self, self.bindings[name]
        return self.parent.find(name) if self.parent else None

    def holds(self, function: Function) -> bool:
        """Whether this is the module's scope and `function` stands in it under its name."""
        return self.parent is None and function in self.bindings.get(function.name, Binding()).functions

    def resolve(self, node: ast.expr) -> str | None:
        """The dotted name that an expression stands for, or None."""
        if isinstance(node, ast.Attribute):
            base = self.resolve(node.value)
            return f"{base}.{node.attr}" if base else None
        if not isinstance(node, ast.Name):
            return None
        found = self.find(node.id)
        if found is not None:
            return found[1].imported
        return f"builtins.{node.id}" if hasattr(builtins, node.id) else None

    def function(self, node: ast.expr) -> Function | None:
        """The function of this module that a name stands for."""
        found = self.find(node.id) if isinstance(node, ast.Name) else None
        return found[1].functions[-1] if found and found[1].functions else None

    def module_variable(self, node: ast.expr) -> tuple[str, Binding] | None:
        """Name and binding at the root of `node` (`x`, `x.a`, `x[i]`) when the module binds it."""
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        found = self.find(node.id) if isinstance(node, ast.Name) else None
        if found is None or found[0].parent is not None or not isinstance(node, ast.Name):
            return None
        return node.id, found[1]

    def kind(self, node: ast.expr | None, depth: int = 0) -> Kind | None:
        """What an expression certainly is, or None. `depth` ends chains of names that lead to each other."""
        if depth > 8:
            return None
        match node:
            case ast.Set() | ast.SetComp():
                return "set"
            case ast.Name():
                found = self.find(node.id)
                return found[0].kind_of_binding(found[1], depth + 1) if found else None
            case ast.Call():
                return self._kind_of_call(node, depth + 1)
            case ast.BinOp(op=ast.BitOr() | ast.BitAnd() | ast.BitXor() | ast.Sub()):
                sides = self.kind(node.left, depth + 1), self.kind(node.right, depth + 1)
                return "set" if "set" in sides else None
            case ast.BinOp(op=ast.Div()):
                return "path" if self.kind(node.left, depth + 1) == "path" else None
            case ast.Attribute(attr="parent"):
                return "path" if self.kind(node.value, depth + 1) == "path" else None
            case ast.NamedExpr():
                return self.kind(node.value, depth + 1)
            case ast.IfExp():
                kind = self.kind(node.body, depth + 1)
                return kind if kind == self.kind(node.orelse, depth + 1) else None
            case _:
                return None

    def kind_of_binding(self, binding: Binding, depth: int = 0) -> Kind | None:
        """What a variable certainly holds."""
        if binding.annotation is not None:
            return self._kind_of_annotation(binding.annotation)
        if binding.opaque or binding.imported or binding.functions or not binding.values:
            return None
        return _agreed([self.kind(value, depth) for value in binding.values])

    def _kind_of_call(self, node: ast.Call, depth: int) -> Kind | None:
        name = self.resolve(node.func)
        if name in {"builtins.set", "builtins.frozenset"}:
            return "set"
        if name in _PATH_TYPES or name in {"pathlib.Path.cwd", "pathlib.Path.home"}:
            return "path"
        if name in _LOOPS:
            return "loop"
        if isinstance(node.func, ast.Attribute):
            receiver = self.kind(node.func.value, depth)
            if receiver == "set" and node.func.attr in _SET_METHODS:
                return "set"
            if receiver == "path" and node.func.attr in _PATH_METHODS:
                return "path"
        return None

    def _kind_of_annotation(self, node: ast.expr) -> Kind | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                node = ast.parse(node.value, mode="eval").body
            except SyntaxError:
                return None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            sides = (self._kind_of_annotation(node.left), self._kind_of_annotation(node.right))
            return _agreed([side for side in sides if side is not None])
        name = self.resolve(node.value if isinstance(node, ast.Subscript) else node)
        if name in _SET_TYPES:
            return "set"
        return "path" if name in _PATH_TYPES else None

    def _bind_parameters(self, arguments: ast.arguments) -> None:
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            self.bindings[argument.arg] = Binding(annotation=argument.annotation, opaque=True)
        for argument in (arguments.vararg, arguments.kwarg):
            if argument is not None:
                self.bindings[argument.arg] = Binding(opaque=True)

    def _binding(self, name: str) -> Binding:
        return self.bindings.setdefault(name, Binding())

    def _bind(self, node: ast.AST) -> None:
        match node:
            case ast.Import():
                for alias in node.names:
                    top = alias.name.split(".")[0]
                    self._binding(alias.asname or top).imported = alias.name if alias.asname else top
            case ast.ImportFrom():
                self._bind_from(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._binding(node.name).functions.append(node)
            case ast.ClassDef():
                self._binding(node.name).opaque = True
            case ast.Global():
                self.globals.update(node.names)
            case ast.Nonlocal():
                self._nonlocals.update(node.names)
            case ast.Assign():
                for target in node.targets:
                    self._bind_target(target, node.value)
            case ast.AnnAssign(target=ast.Name(id=name)):
                self._binding(name).annotation = node.annotation
                self._targets.add(id(node.target))
                if node.value is not None:
                    self._binding(name).values.append(node.value)
            case ast.AugAssign():
                self._targets.add(id(node.target))  # `s |= other` leaves it a set
            case ast.NamedExpr():
                self._bind_target(node.target, node.value)
            case _:
                self._bind_plain(node)

    def _bind_plain(self, node: ast.AST) -> None:
        match node:
            case ast.Name(ctx=ast.Store()):
                self._binding(node.id).opaque |= id(node) not in self._targets
            case ast.ExceptHandler(name=str()):
                self._binding(str(node.name)).opaque = True
            case ast.MatchAs(name=str()) | ast.MatchStar(name=str()):
                self._binding(str(node.name)).opaque = True
            case _:
                pass

    def _bind_target(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._binding(target.id).values.append(value)
            self._targets.add(id(target))

    def _bind_from(self, node: ast.ImportFrom) -> None:
        module = "." * node.level + (node.module or "")
        for alias in node.names:
            if alias.name == "*":
                for name in _KNOWN_STARS.get(module, ()):
                    self._binding(name).imported = f"{module}.{name}"
            else:
                self._binding(alias.asname or alias.name).imported = f"{module}.{alias.name}"
