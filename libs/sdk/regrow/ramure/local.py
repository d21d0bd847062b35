"""What of a process lives in this interpreter beside its record: the objects themselves.

In ramure, processes of one program hand each other objects: arguments, results, exceptions and events arrive as what
they are, whether JSON can say them or not. So each process that was started here has a `Local` from its start to its
end; what is recorded of it beside that is what JSON can say.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from msgspec import Raw
from regrow_protocol.errors import ValueTooLarge

from .. import scope
from ..codec import NULL, to_raw
from ..errors import NotSendable, OutsideProcess, ProcessGone, sendable_text
from .stream import Event, Stream

if TYPE_CHECKING:
    from .machines.base import Image, Machine
    from .machines.program import ProgramMachine
    from .process import RamureProcess
    from .runtime import Runtime

log = logging.getLogger("regrow.ramure")

T = TypeVar("T")
Outcome = tuple[str, Any]
"""(`done`, value) or (`failed` | `cancelled`, exception)."""

_all: WeakValueDictionary[str, Local] = WeakValueDictionary()


class Local:
    """A process of this interpreter.

    Attributes:
        pid: its id.
        type: kept here, for functions inside other functions are kept by nobody else.
        given: its arguments, as the caller gave them; None when they were read from its record.
        context: the caller's, as that of a task.
        runtime: of its tree.
        image: that its machines are made from where no other is given.
        events: what it has announced.
        endpoints: what it exposes, by name.
        agents: that it made, by name.
        machines: that it made of images which only this program knows.
        programs: machines of this program that its agents run on.
        decided: what `done` or `fail` said.
        begun: set when its body begins.
        outcome: how its body ended; None until then.
        ended: done when all that belongs to it has ended too.
        scope: where its operations go; None before it begins.
    """

    def __init__(
        self,
        pid: str,
        type_: RamureProcess[Any, Any],
        runtime: Runtime,
        image: Image | Any,
        given: tuple[tuple[Any, ...], dict[str, Any]] | None = None,
    ) -> None:
        self.pid = pid
        self.type = type_
        self.given = given
        self.context = contextvars.copy_context()
        self.runtime = runtime
        self.image = image
        self.events = Stream()
        self.endpoints: dict[str, Callable[..., Awaitable[Any]]] = {}
        self.agents: dict[str, Any] = {}
        self.machines: list[Machine] = []
        self.programs: list[ProgramMachine] = []
        self.decided: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.begun = asyncio.Event()
        self.outcome: Outcome | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.scope: Any = None
        _all[pid] = self

    def begin(self, here: Any) -> None:
        """Its body begins, perhaps again: what the last incarnation had is over."""
        if self.scope is not None:
            self.decided = asyncio.get_running_loop().create_future()
            self.endpoints, self.agents, self.programs = {}, {}, []
        self.scope = here

    def emit(self, type_: str, data: Any, source: str | None = None) -> None:
        """Announce an event: here, and in its record where it still has one."""
        try:
            self.scope.emit(type_, *recordable(data), source)
        except ProcessGone:
            return
        self.tell(Event(type_, data, source))

    def tell(self, event: Event) -> None:
        """Announce an event here only: its record has it already."""
        if self.events.append(event) is not None:
            self.runtime.note(self, event)

    def end(self, kind: str, value: Any) -> None:
        """Its body has ended, or never began: its last event. The first call counts."""
        if self.outcome is not None:
            return
        self.outcome = kind, value
        if self.decided.done() and not self.decided.cancelled():
            self.decided.exception()  # the body may not have waited for it
        self.tell(Event(kind, reason_of(value) if kind == "failed" else value if kind == "done" else None))
        self.events.close()
        self.begun.set()

    def close(self) -> None:
        """All that belongs to it has ended."""
        if not self.ended.done():
            self.ended.set_result(None)

    async def invoke(self, function: Callable[..., Awaitable[T]], kwargs: dict[str, Any]) -> T:
        """Call a function of this process, in its scope."""
        token = scope.ambient.set(self.scope)
        try:
            return await function(**kwargs)
        finally:
            scope.ambient.reset(token)


def reason_of(error: BaseException) -> str:
    """Why a process failed, as its event tells."""
    return getattr(error, "reason", "") or sendable_text(error) or type(error).__name__


def recordable(value: Any) -> tuple[Any]:
    """`value` where it can be recorded, else what is known of it as text."""
    try:
        to_raw(value)
    except (NotSendable, ValueTooLarge):
        return (sendable_text(repr(value)),)
    return (value,)


def recorded(value: Any) -> Raw:
    """As JSON, what `recordable` says."""
    return to_raw(*recordable(value)) if value is not None else NULL


def of(pid: str) -> Local | None:
    """The process `pid`, where it lives in this interpreter."""
    return _all.get(pid)


def find() -> Local | None:
    """The process whose body, endpoint or tool is running."""
    here = scope.find()
    return _all.get(getattr(here, "pid", "")) if here is not None else None


def current() -> Local:
    """The process whose body, endpoint or tool is running; raises OutsideProcess (a RuntimeError)."""
    local = find()
    if local is None:
        raise OutsideProcess(
            "No process is running here", hint="call it from a function decorated with @agent_process of regrow.ramure"
        )
    return local
