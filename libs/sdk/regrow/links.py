"""Links between processes, as Erlang has them: one that ends badly takes those with it that are linked to it.

A link is of two incarnations and goes both ways. When one ends it sends the other an `exit`; unless it is done, the
other fails too, or, where its type traps exits, gets a signal `exit`. A link to what has ended breaks at once.

References:
    Erlang, Reference Manual, Processes: links, exit signals, trapping.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Raw
from regrow_protocol import messages as m
from regrow_protocol.messages import Failure, Ref

if TYPE_CHECKING:
    from .process import Process

EXIT = "exit"
"""Name of the signal that a process which traps exits receives."""


class Links:
    """Of one incarnation."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._linked: dict[str, None] = {}

    def link(self, pid: str) -> None:
        """Tie this process to another one."""
        if pid == self._process.pid:
            raise ValueError("a process cannot be linked to itself")
        if pid not in self._linked:
            self._linked[pid] = None
            self._process.relations.link(pid)

    def unlink(self, pid: str) -> None:
        """Untie them, both ways."""
        if pid in self._linked:
            del self._linked[pid]
            self._process.relations.link(pid, off=True)

    def asked(self, message: m.Link) -> None:
        """Another process links, or unlinks, itself to this one."""
        process, other = self._process, message.by
        if other is None:
            return
        if message.off:
            self._linked.pop(other.pid, None)
        elif process.ended:
            self._tell(other.pid)
        else:
            self._linked[other.pid] = None

    def exited(self, message: m.Exit) -> None:
        """A linked process has ended."""
        process = self._process
        if message.by is None or process.ended or self._linked.pop(message.by.pid, ...) is ...:
            return
        if message.status == "done":
            return
        why = message.error.message if message.error is not None else message.status
        if process.type is not None and process.type.options.trap_exits:
            data = {"pid": message.by.pid, "status": message.status, "reason": why}
            process.mailbox.put(m.Signal(name=EXIT, data=Raw(m.encode(data))), process.applied)
        else:
            text = f"the linked process {message.by.pid} {message.status}: {why}"
            process.give_up(Failure("LinkedProcessEnded", text, "linked-process-ended"), text)

    def end(self) -> None:
        """This incarnation has ended."""
        linked, self._linked = self._linked, {}
        for pid in linked:
            self._tell(pid)

    def _tell(self, pid: str) -> None:
        process = self._process
        outcome = process.result_raw
        assert outcome is not None
        status, _, failure = outcome
        by = Ref(process.pid, process.incarnation, process.n + 1)
        process.send(pid, m.Exit(by=by, status=status, error=failure))

    def forget(self) -> None:
        """Its process has left memory."""
        self._linked.clear()
        del self._process
