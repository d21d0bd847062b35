"""Permits of one incarnation: those that its type's `limits` ask for before the body begins, given back at its end.

They are asked for one after the other, in the order of their names, so that two processes never wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Raw, UnsetType
from regrow_protocol import limits as wire
from regrow_protocol import messages as m
from regrow_protocol.messages import Failure, Op

if TYPE_CHECKING:
    from .process import Process


def acquire_for(start: m.Start, pid: str, tags: Mapping[str, str], limit: str, priority: int) -> wire.Acquire:
    """What a process, or a step of it, asks the supervisor for."""
    parent = start.parent.pid if start.parent is not None else pid
    return wire.Acquire(limit, priority, parent, start.type, dict(tags))


class _Permit:
    """Stands where an operation of the body has a `Pending`."""

    __slots__ = ("admission", "op")

    def __init__(self, admission: Admission, op: Op) -> None:
        self.admission = admission
        self.op = op

    def settle(self, value: Raw | UnsetType, failure: Failure | None) -> None:
        del value, failure
        self.admission._given()


class Admission:
    """Of one incarnation."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._asked: list[tuple[str, str]] = []
        self._left: list[str] = []
        self._then: Callable[[], None] | None = None

    def ask(self, names: Sequence[str], then: Callable[[], None]) -> None:
        """Call `then` once there is a permit of each."""
        self._left = sorted(set(names))
        self._then = then
        self._next()

    def _next(self) -> None:
        process = self._process
        if not self._left:
            then, self._then = self._then, None
            if then is not None and process.result_raw is None:
                then()
            return
        assert process.type is not None
        assert process.start is not None
        name = self._left.pop(0)
        acquire = acquire_for(process.start, process.pid, process.tags, name, process.type.options.priority)
        subject = wire.admission_subject(process.env.app)
        op = process.relations.command(
            "admission.acquire",
            subject,
            Raw(m.encode(acquire)),
            lambda op: _Permit(self, op),
            compared=acquire.compared(),
        )
        self._asked.append((name, f"{process.pid}.{process.incarnation}.{op.n}"))

    def _given(self) -> None:
        self._next()

    def release(self) -> None:
        """The incarnation has ended."""
        asked, self._asked = self._asked, []
        subject = wire.admission_subject(self._process.env.app)
        for name, permit in asked:
            self._process.relations.tell("admission.release", subject, Raw(m.encode(wire.Release(name, permit))))

    def forget(self) -> None:
        """Its process has left memory."""
        self._then = None
        del self._process
