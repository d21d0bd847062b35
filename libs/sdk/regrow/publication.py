"""What a process tells the registry of its endpoints, so that others find them, with what they take.

Each `@expose` sends a command under the number of its own operation, so a replay sends it again under the same id, and
histories from before it did so are as they were. No operation stands behind the two other commands: `ENDED`, with the
final event, and `RENEWED`, after the first turn of a later incarnation, when what it did not expose again is gone
(ADR 0014). Tools of agents are no endpoints for others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec import Raw, Struct
from regrow_protocol import messages as m
from regrow_protocol.agents import Tool
from regrow_protocol.endpoints import ExposeEndpoint, Withdraw, registry_subject
from regrow_protocol.messages import Ref

from .operations import Output
from .tool_schema import tool_of

if TYPE_CHECKING:
    from .process import Process

ENDED, RENEWED = 0, -1
"""Numbers in the ids of commands that no operation stands behind."""


def described(function: Callable[..., Any], name: str) -> Tool | None:
    """An endpoint as others see it; None for a tool of an agent, which they do not."""
    if "/" in name:
        return None
    try:
        return _tool_of(_Likeness(function), name)
    except (AttributeError, TypeError):  # no plain function, or annotations that no cache can go by
        return tool_of(function, name)


class _Likeness:
    """A function that counts as equal to another that says the same: each process defines its endpoints anew."""

    __slots__ = ("_says", "function")

    def __init__(self, function: Callable[..., Any]) -> None:
        of: Any = function
        self.function = function
        annotations = tuple(of.__annotations__.items())
        self._says = (of.__code__, of.__doc__, annotations, repr(of.__defaults__), repr(of.__kwdefaults__))

    def __hash__(self) -> int:
        return hash(self._says)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Likeness) and other._says == self._says


@lru_cache(maxsize=1024)
def _tool_of(likeness: _Likeness, name: str) -> Tool:
    return tool_of(likeness.function, name)


class Publication:
    """Of one incarnation."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._exposed: dict[str, tuple[Tool, int]] = {}

    def exposed(self, tool: Tool | None, n: int) -> None:
        """Operation `n` exposed an endpoint."""
        if tool is not None:
            self._exposed[tool.name] = (tool, n)
            self._tell_of(tool, n)

    def first_turn_over(self) -> None:
        """What earlier incarnations exposed, and this one has not, is there no more."""
        process = self._process
        if process.incarnation and not process.ended:
            self._send("withdraw", Withdraw(process.incarnation - 1), RENEWED)

    def ended(self) -> None:
        """The process has ended."""
        process = self._process
        if self._exposed or process.incarnation:
            self._send("withdraw", Withdraw(process.incarnation, ended=True), ENDED)

    def cut_off(self) -> None:
        """A copied history ends here: the copy exposes what it does for itself."""
        for tool, n in self._exposed.values():
            self._tell_of(tool, n)

    def forget(self) -> None:
        """Its process has left memory."""
        self._exposed.clear()
        del self._process

    def _tell_of(self, tool: Tool, n: int) -> None:
        process = self._process
        assert process.start is not None
        args = ExposeEndpoint(
            type=process.start.type, endpoint=tool, name=process.public_name, incarnation=process.incarnation, n=n
        )
        self._send("expose", args, n)

    def _send(self, name: str, args: Struct, n: int) -> None:
        process = self._process
        command = m.Command(
            id=f"{process.pid}.{process.incarnation}.{n}",
            app=process.env.app,
            name=name,
            args=Raw(m.encode(args)),
            by=Ref(process.pid, process.incarnation, max(n, 0)),
        )
        process.outputs.append(Output("command", registry_subject(process.env.app), command, n))
