"""What lists say of processes: their records, put together with the hosts that live and the cursors' parked ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence

import msgspec
from msgspec import Struct
from regrow_protocol import messages as m
from regrow_protocol import subjects
from regrow_protocol.bus import Bus

BUCKET = "regrow_processes"
ENDS = ("done", "failed", "cancelled")
STATUSES = ("running", "no-host", "stuck", *ENDS)


class Row(Struct, kw_only=True, omit_defaults=True):
    """A process in a list.

    Attributes:
        pid, app, type, build, parent, root, name, incarnation, started, ended, error: as recorded.
        status: `running`, `done`, `failed`, `cancelled`; `stuck` when it is parked; `no-host` when no host of its build
        lives.
        depth: below the first of its ancestors that is listed.
        stuck: why it is parked.
        tags: by which it is found.
    """

    pid: str
    app: str
    type: str
    status: str
    build: str = ""
    parent: str | None = None
    root: str = ""
    name: str = ""
    incarnation: int = 0
    started: float = 0.0
    ended: float = 0.0
    error: str = ""
    depth: int = 0
    stuck: m.Stuck | None = None
    tags: dict[str, str] = {}


async def records(bus: Bus) -> AsyncIterator[m.ProcessRecord]:
    """All process records, in no order that means anything."""
    bucket = bus.kv(BUCKET)
    position = 1
    while True:
        batch, pending = await bus.get_batch(bucket.stream, f"{bucket.prefix}*", position)
        for message in batch:
            if message.data and (record := _record(message.data)) is not None:
                yield record
        if not batch or not pending:
            return
        position = batch[-1].seq + 1


async def record_of(bus: Bus, pid: str) -> m.ProcessRecord | None:
    """The record of a process, if it has one."""
    found = await bus.kv(BUCKET).get(pid)
    return None if found is None else _record(found[0])


def _record(data: bytes) -> m.ProcessRecord | None:
    try:
        return m.decode(data, m.ProcessRecord)
    except msgspec.MsgspecError:  # of another version: not ours to judge
        return None


async def hosts(bus: Bus) -> list[m.HostRecord]:
    """The hosts that live, by app and start."""
    found: list[m.HostRecord] = []
    async for entry in bus.kv("regrow_hosts").items():
        try:
            found.append(m.decode(entry.value, m.HostRecord))
        except msgspec.MsgspecError:
            continue
    return sorted(found, key=lambda host: (host.app, host.started))


async def parked(bus: Bus) -> dict[tuple[str, str, str], m.Stuck]:
    """Why processes are parked, by (app, build, pid): only what its present build says of a process counts."""
    found: dict[tuple[str, str, str], m.Stuck] = {}
    async for entry in bus.kv("regrow_cursors").items():
        app, build, _ = entry.key.split(".")
        try:
            cursor: m.Cursor = m.decode(entry.value, m.Cursor)
        except msgspec.MsgspecError:
            continue
        for pid, stuck in cursor.stuck.items():
            found[subjects.untoken(app), build, pid] = stuck
    return found


async def rows(bus: Bus) -> list[Row]:
    """All processes, with the status that they have now."""
    alive = {(host.app, host.build) for host in await hosts(bus)}
    stuck = await parked(bus)
    return [row_of(record, alive, stuck) async for record in records(bus)]


def row_of(
    record: m.ProcessRecord, alive: Iterable[tuple[str, str]], stuck: dict[tuple[str, str, str], m.Stuck]
) -> Row:
    """A record as a row."""
    why = stuck.get((record.app, record.build, record.pid)) if record.status == "running" else None
    status = record.status
    if status == "running":
        status = "stuck" if why is not None else status if (record.app, record.build) in alive else "no-host"
    return Row(
        pid=record.pid, app=record.app, type=record.type, status=status, build=record.build, parent=record.parent,
        root=record.root or record.pid, name=record.name, incarnation=record.incarnation, started=record.started,
        ended=record.ended, error=record.error, stuck=why, tags=record.tags,
    )  # fmt: skip


def in_tree_order(given: Sequence[Row]) -> list[Row]:
    """Parents before their children, both by their start; sets the depths."""
    present = {row.pid for row in given}
    children: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(given, key=lambda row: (row.started, row.pid)):
        children[row.parent if row.parent in present and row.parent != row.pid else ""].append(row)
    ordered: list[Row] = []
    waiting = [(row, 0) for row in reversed(children[""])]
    while waiting:
        row, row.depth = waiting.pop()
        ordered.append(row)
        waiting += [(child, row.depth + 1) for child in reversed(children.get(row.pid, ()))]
    return ordered


def tree_of(given: Sequence[Row], pid: str) -> list[Row]:
    """A process and all below it, in tree order; empty when it is not listed."""
    ordered = in_tree_order(given)
    for start, row in enumerate(ordered):
        if row.pid == pid:
            end = next((i for i in range(start + 1, len(ordered)) if ordered[i].depth <= row.depth), len(ordered))
            return [msgspec.structs.replace(each, depth=each.depth - row.depth) for each in ordered[start:end]]
    return []
