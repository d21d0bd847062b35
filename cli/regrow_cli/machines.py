"""What lists say of machines and snapshots: their records, and the machine-managers that live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import Struct
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus, Entry
from regrow_protocol.machines import MachineRecord, ManagerRecord, NodeRecord, SnapshotRecord

BUCKET = "regrow_machines"
ENDS = ("stopped", "failed")
R = TypeVar("R", bound=Struct)


class MachineRow(Struct, kw_only=True):
    """A machine in a list.

    Attributes:
        state: `requested` (waits for room), `creating`, `ready`, `warm` (made in advance), `stopping`, `stopped`,
            `failed`; `no-manager`: it is there, but no machine-manager of its node lives.
        host: of a pool, the one that it is on.
        owner: pid of the process that it ends with; empty: nobody's, it lives until it is stopped.
        keep: it was made to outlive its process.
        created: seconds since 1970.
        ended: when it ended, seconds since 1970; 0 before.
        reason: why it is stopped or failed.
    """

    id: str
    app: str
    backend: str
    node: str
    host: str
    state: str
    owner: str
    name: str
    keep: bool
    created: float
    ended: float
    reason: str


class SnapshotRow(Struct, kw_only=True):
    """A snapshot in a list.

    Attributes:
        machine: that it is of.
        node: whose managers can use it; empty: any that has the backend.
        created: seconds since 1970.
    """

    id: str
    app: str
    machine: str
    backend: str
    node: str
    name: str
    created: float


class Kept(Struct, frozen=True):
    """A machine's record, and when it was last written, seconds since 1970."""

    record: MachineRecord
    written: float


async def records(bus: Bus) -> list[Kept]:
    """The records of all machines, in the order in which they were made."""
    found = [Kept(record, at) for record, at in await _read(bus, "machine.*", MachineRecord)]
    return sorted(found, key=lambda kept: (kept.record.created, kept.record.id))


async def record_of(bus: Bus, id_: str) -> MachineRecord | None:
    """The record of a machine, if it has one."""
    found = await bus.kv(BUCKET).get(f"machine.{id_}")
    return m.decode(found[0], MachineRecord) if found is not None else None


async def snapshots(bus: Bus) -> list[SnapshotRecord]:
    """The records of all snapshots, in the order in which they were made."""
    found = [record for record, _ in await _read(bus, "snapshot.*", SnapshotRecord)]
    return sorted(found, key=lambda record: (record.created, record.id))


async def nodes(bus: Bus) -> list[NodeRecord]:
    """What the nodes offer, by name; of those without a manager too."""
    return sorted([record for record, _ in await _read(bus, "node.*", NodeRecord)], key=lambda record: record.node)


async def until_managed(bus: Bus, fits: Callable[[set[str]], bool], patience: float) -> set[str]:
    """The nodes of which a machine-manager lives, once `fits` likes them, or after `patience` seconds.

    A stack that was started for this very command has its manager a moment later.
    """
    alive: dict[str, str] = {}
    changed = asyncio.Event()

    def entry(each: Entry) -> None:
        if each.operation == "put":
            record = _decoded(each.value, ManagerRecord)
            if record is not None:
                alive[each.key] = record.node
        else:
            alive.pop(each.key, None)
        changed.set()

    watcher = bus.kv(BUCKET).watch("manager.*", entry)
    try:
        await watcher.current
        async with asyncio.timeout(patience):
            while not fits(set(alive.values())):
                changed.clear()
                await changed.wait()
    except TimeoutError:
        pass  # told by what is returned
    finally:
        await watcher.stop()
    return set(alive.values())


async def _read(bus: Bus, keys: str, type_: type[R]) -> list[tuple[R, float]]:
    return [
        (record, entry.time)
        async for entry in bus.kv(BUCKET).items(keys)
        if (record := _decoded(entry.value, type_)) is not None
    ]


def _decoded(data: bytes, type_: type[R]) -> R | None:
    try:
        return m.decode(data, type_)
    except msgspec.MsgspecError:  # of another version: not ours to judge
        return None


def row_of(kept: Kept, alive: set[str]) -> MachineRow:
    """A record as a row; `alive`: the nodes that have a manager."""
    record = kept.record
    away = record.state in ("ready", "warm", "creating", "stopping") and record.node not in alive
    ended = record.state in ENDS
    return MachineRow(
        id=record.id,
        app=record.app,
        backend=record.backend or record.image.backend,
        node=record.node,
        host=record.host,
        state="no-manager" if away else record.state,
        owner=record.owner.pid if record.owner is not None else "",
        name=record.name,
        keep=record.keep,
        created=record.created,
        ended=kept.written if ended else 0.0,
        reason=record.reason or (record.failure.message if record.failure is not None else ""),
    )


def snapshot_row(record: SnapshotRecord) -> SnapshotRow:
    """A snapshot's record as a row."""
    return SnapshotRow(
        id=record.id,
        app=record.app,
        machine=record.machine,
        backend=record.backend,
        node=record.node,
        name=record.name,
        created=record.created,
    )
