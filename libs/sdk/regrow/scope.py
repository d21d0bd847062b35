"""Where a call of the public API comes from: the body of a process on its deterministic loop, a `restart` body on the
host's loop, or a client outside all processes."""

from __future__ import annotations

from asyncio import events
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .errors import OutsideProcess
from .loop import DeterministicLoop

if TYPE_CHECKING:
    from regrow_protocol.bus import Bus

ambient: ContextVar[Any] = ContextVar("regrow_scope", default=None)
"""The scope of code on an ordinary loop: a `restart` body, or a connected client."""


def find() -> Any:
    """The scope of the running code, or None outside."""
    loop = events._get_running_loop()
    if isinstance(loop, DeterministicLoop):
        return loop.owner
    return ambient.get()


def current() -> Any:
    """The scope of the running code."""
    scope = find()
    if scope is None:
        raise OutsideProcess(
            "This works only inside a process",
            hint="call it from a function decorated with @agent_process, run by asyncio.run(main()) or `regrow run`",
        )
    return scope


bus: ContextVar[Bus] = ContextVar("regrow_bus")
"""The connection that steps and clients may use for what does not fit into a message."""
