"""How events become the record of a process: a pure function that gives the same in whatever order it sees them.

Events of one process may reach two supervisors, and one supervisor twice. So a record keeps the stream sequence that it
was made from, and only a later event with something to say replaces it; an incarnation only grows. Hence any
interleaving ends the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace
from regrow_protocol import messages
from regrow_protocol.messages import EventRecord, ProcessMeta, ProcessRecord

RUNNING = "running"
ENDS = frozenset({"done", "failed", "cancelled"})
MAX_ERROR = 500


def tells(event: EventRecord) -> bool:
    """Whether lists learn anything from it: a program may emit a `done` or `started` of its own, which say nothing."""
    return event.final or event.meta is not None or event.type == "restarted"


def fold(record: ProcessRecord | None, app: str, events: Iterable[tuple[int, EventRecord]]) -> ProcessRecord | None:
    """The record after events of one process, given with their sequences in the stream."""
    for seq, event in events:
        record = _apply(record, app, seq, event)
    return record


def read_record(value: bytes) -> ProcessRecord | None:
    """The record as it is stored; None for what is none, which the next event replaces."""
    try:
        return messages.decode(value, ProcessRecord)
    except msgspec.MsgspecError:
        return None


def _apply(record: ProcessRecord | None, app: str, seq: int, event: EventRecord) -> ProcessRecord | None:
    if not tells(event):
        return record
    if record is None:
        record = ProcessRecord(pid=event.pid, app=app, type="", build="", status=RUNNING, seq=0)
    incarnation = max(record.incarnation, event.incarnation)
    if seq <= record.seq or not (event.final or event.meta):
        return record if incarnation == record.incarnation else replace(record, incarnation=incarnation)
    ended = event.final and event.type in ENDS
    meta = event.meta or _meta_of(record)
    return ProcessRecord(
        pid=record.pid,
        app=app,
        type=meta.type,
        build=meta.build,
        status=event.type if ended else RUNNING,
        seq=seq,
        parent=meta.parent,
        root=meta.root,
        name=meta.name,
        program=meta.program,
        incarnation=incarnation,
        started=meta.started or event.time,
        ended=event.time if ended else 0.0,
        tags=meta.tags,
        error=_error_text(event) if ended and event.type == "failed" else "",
    )


def _meta_of(record: ProcessRecord) -> ProcessMeta:
    return ProcessMeta(
        type=record.type,
        build=record.build,
        parent=record.parent,
        root=record.root,
        name=record.name,
        program=record.program,
        started=record.started,
        tags=record.tags,
    )


def _error_text(event: EventRecord) -> str:
    """What a list shows of a failure: its message where the data has one, else the data."""
    data: Any = messages.decode(event.data, Any)
    if isinstance(data, dict):
        for name in ("message", "reason", "error"):
            if isinstance(data.get(name), str):
                return data[name][:MAX_ERROR]
    return data[:MAX_ERROR] if isinstance(data, str) else msgspec.json.encode(data).decode()[:MAX_ERROR]
