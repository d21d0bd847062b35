"""How the process stands that owns something: what it owns ends with it."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import msgspec
from regrow_protocol import messages, subjects
from regrow_protocol.bus import Bus
from regrow_protocol.errors import InvalidName
from regrow_protocol.messages import EventRecord, ProcessRecord
from regrow_protocol.streams import EVENTS

T = TypeVar("T")

FILTERS = [subjects.events_of(type_=type_) for type_ in ("done", "failed", "cancelled", "restarted")]
"""Of the events that tell of an end, or of a newer incarnation."""
RUNNING = "running"


class Owner(NamedTuple):
    """A process: its status as in `ProcessRecord`, and its incarnation."""

    status: str
    incarnation: int

    @classmethod
    def of(cls, event: EventRecord) -> Owner:
        """As its last event tells."""
        return cls(event.type if event.final else RUNNING, event.incarnation)


async def look_up(bus: Bus, pid: str, app: str) -> Owner | None:
    """What is known of a process; its events tell of one that the list lacks, as while nobody writes that."""
    try:
        found = await bus.kv("regrow_processes").get(pid)
        process = None if found is None else _decoded(found[0], ProcessRecord)
        if process is not None:
            return Owner(process.status, process.incarnation)
        last = await bus.last(EVENTS, subjects.events_of(app, pid))
    except InvalidName:
        return None  # nobody has such an id
    event = None if last is None else _decoded(last.data, EventRecord)
    return None if event is None else Owner.of(event)


def _decoded(body: bytes, type_: type[T]) -> T | None:
    try:
        return messages.decode(body, type_)
    except msgspec.MsgspecError:
        return None
