"""What is left of machines that nobody needs: found, and removed.

- Machines whose owner has ended. Managers stop them by themselves; this finds what they could not see, as that of a
  node without a manager.
- Records of machines that ended some time ago. They go by themselves after a week.
- Snapshots that nobody needs: those older than that time, without a name of their own, of machines that have ended and
  that no running machine was made from. What was kept of a failed process (`snapshot_on_failure`) counts as unnamed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct
from regrow_protocol.bus import Bus
from regrow_protocol.images import SnapshotImage, decode_image
from regrow_protocol.machines import MachineRecord, SnapshotRecord
from regrow_protocol.messages import ProcessRecord

from . import processes
from .machines import BUCKET, ENDS, Kept, records, snapshots

_MARKER = 60.0


class Garbage(Struct, kw_only=True):
    """Something to be removed.

    Attributes:
        what: `machine`: it runs, and is to be stopped; `record`: of one that has ended; `snapshot`.
        why: for people.
    """

    what: Literal["machine", "record", "snapshot"]
    id: str
    app: str
    name: str
    why: str


class Found(Struct):
    """What was found, with the records."""

    machines: list[tuple[MachineRecord, Garbage]] = []
    records: list[Garbage] = []
    snapshots: list[tuple[SnapshotRecord, Garbage]] = []

    @property
    def all(self) -> list[Garbage]:
        """In the order in which it is removed."""
        return [*(each for _, each in self.machines), *self.records, *(each for _, each in self.snapshots)]


async def look(bus: Bus, *, older: float, with_snapshots: bool) -> Found:
    """Find what nobody needs.

    Args:
        bus: connected.
        older: seconds since the end of a machine, or since a snapshot was made.
        with_snapshots: look for snapshots too.
    """
    known, now = await records(bus), time.time()
    found = Found()
    for kept in known:
        record = kept.record
        if record.state in ENDS:
            if now - kept.written >= older:
                found.records.append(_garbage("record", record, f"{record.state}, {_reason(record)}"))
        elif record.state != "stopping" and (why := await _orphaned(bus, record)):
            found.machines.append((record, _garbage("machine", record, why)))
    if with_snapshots:
        found.snapshots = [
            (record, _garbage("snapshot", record, f"nobody needs it; of {record.machine}"))
            for record in unneeded(await snapshots(bus), known, before=now - older)
        ]
    return found


async def _orphaned(bus: Bus, record: MachineRecord) -> str:
    """Why its owner will not need it any more, or empty."""
    if record.owner is None:
        return ""
    owner: ProcessRecord | None = await processes.record_of(bus, record.owner.pid)
    if owner is None or owner.status not in processes.ENDS or owner.incarnation < record.owner.incarnation:
        return ""
    return f"its owner {owner.pid} is {owner.status}"


def unneeded(known: Sequence[SnapshotRecord], machines: Sequence[Kept], *, before: float) -> list[SnapshotRecord]:
    """Snapshots made before that time, unnamed, of machines that ended, and that no running machine was made from."""
    going = [kept.record for kept in machines if kept.record.state not in ENDS]
    used = {_source(record) for record in going}
    alive = {record.id for record in going}
    return [
        each
        for each in known
        if each.created < before and each.machine not in alive and each.id not in used and not _named(each)
    ]


def _source(record: MachineRecord) -> str:
    if record.image.backend != SnapshotImage.backend:
        return ""
    return decode_image(record.image, SnapshotImage).id


def _named(snapshot: SnapshotRecord) -> bool:
    """Whether somebody gave it a name; that of a failed process's is Regrow's own (`regrow.machines.keepsakes`)."""
    first, _, rest = snapshot.name.partition(" ")
    return bool(snapshot.name) and not (first.startswith("p_") and rest == "failed")


def _garbage(
    what: Literal["machine", "record", "snapshot"], record: MachineRecord | SnapshotRecord, why: str
) -> Garbage:
    return Garbage(what=what, id=record.id, app=record.app, name=record.name, why=why)


def _reason(record: MachineRecord) -> str:
    return record.reason or (record.failure.message if record.failure is not None else "asked")


async def forget(bus: Bus, garbage: Garbage) -> None:
    """Remove the record of a machine that has ended."""
    await bus.kv(BUCKET).purge(f"machine.{garbage.id}", marker_ttl=_MARKER)
