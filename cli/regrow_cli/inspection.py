"""All that is known of one process, put together from its inbox, the lists, the cursors and a fold of its history."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from regrow import history as histories
from regrow.folding import Waiting
from regrow.history import History
from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError

from . import agents
from .agents import AgentRow
from .data_dir import DataDir
from .detached import RunRecord, record_of
from .folds import fold_elsewhere
from .live import owners
from .processes import ENDS, Row, hosts, parked, row_of, rows, tree_of
from .resolve import Found

FOLD_TIMEOUT = 15.0
LAST_EVENTS = 10


class Inspection(Struct, kw_only=True):
    """What `regrow status` tells.

    Attributes:
        process: as lists show it.
        program: of its root.
        inputs, first, last: how many inputs it has, and their sequences.
        host: that has its partition.
        detached: what keeps a host for it in the background.
        endpoints: that it exposes; None when that is not known.
        waiting: operations under way; only what the streams tell, when it was not folded.
        not_folded: why it was not.
        agents: that it has, or had.
        tree: it and all below it.
        events: its last ones.
    """

    process: Row
    program: str
    inputs: int
    first: int
    last: int
    host: str
    detached: RunRecord | None
    endpoints: list[str] | None
    waiting: list[Waiting]
    not_folded: str
    agents: list[AgentRow]
    tree: list[Row]
    events: list[m.EventRecord]


async def inspect(bus: Bus, found: Found, place: DataDir, *, fold: bool = True) -> Inspection:
    """Look at a process.

    Args:
        bus: connected.
        found: the process.
        place: the data folder, where detached runs are noted.
        fold: fold its history if its program is here.
    """
    history = await histories.read(bus, found.app, found.pid, found.partitions)
    alive = await hosts(bus)
    stuck = await parked(bus)
    record = _record(history, found.record)
    row = row_of(record, {(host.app, host.build) for host in alive}, stuck)
    everything = await rows(bus)
    result = Inspection(
        process=row, program=history.program.target if history.program else "", inputs=len(history.inputs),
        first=history.inputs[0].seq, last=history.inputs[-1].seq, host="", detached=record_of(place, history.root),
        endpoints=None, waiting=[], not_folded="",
        agents=[agents.row_of(each) for each in await agents.records(bus) if each.owner.pid == found.pid],
        tree=tree_of(everything, found.pid),
        events=history.events[-LAST_EVENTS:],
    )  # fmt: skip
    if row.status in ENDS:
        return result
    part = ids.partition_of(found.pid, found.partitions)
    owner = (await owners(bus)).get((found.app, record.build, part), "")
    host = next((each for each in alive if each.host == owner), None)
    result.host = f"{host.host} on {host.node}, process {host.os_pid}" if host is not None else ""
    result.not_folded = await _fold(history, row, result) if fold else "as was asked for"
    if result.not_folded:
        result.waiting = await _waiting(bus, found, everything)
    return result


def _record(history: History, record: m.ProcessRecord | None) -> m.ProcessRecord:
    """The record of a process as its own streams tell it, for lists may be a little behind."""
    last = history.events[-1] if history.events else None
    metas = [event.meta for event in history.events if event.meta is not None]
    meta = metas[-1] if metas else None
    ended = last is not None and last.final
    if record is not None and (record.status in ENDS) == ended:
        return msgspec.structs.replace(record, build=history.build)
    return m.ProcessRecord(
        pid=history.pid, app=history.app, type=history.type, build=history.build,
        status=last.type if last is not None and ended else "running", seq=0, parent=meta.parent if meta else None,
        root=meta.root if meta else "", name=meta.name if meta else "", started=meta.started if meta else 0.0,
        ended=last.time if last is not None and ended else 0.0,
    )  # fmt: skip


async def _fold(history: History, row: Row, result: Inspection) -> str:
    """Fill in what only a fold tells; returns why it was not possible."""
    if not result.program:
        return "its program is not known"
    until = row.stuck.seq - 1 if row.stuck is not None else None
    try:
        answer = await fold_elsewhere(history, result.program, until=until, build=history.build, timeout=FOLD_TIMEOUT)
    except RegrowError as error:
        return error.message
    if answer.folding is None:
        return f"{result.program} has been changed since"
    result.endpoints = answer.folding.state.endpoints
    result.waiting = answer.folding.state.waiting
    return answer.folding.diverged


async def _waiting(bus: Bus, found: Found, everything: list[Row]) -> list[Waiting]:
    """What the streams tell of operations under way: children that run, timers that are scheduled."""
    waiting = [
        Waiting(0, "spawn", row.type, row.pid)
        for row in everything
        if row.parent == found.pid and row.status not in ENDS
    ]
    part = ids.partition_of(found.pid, found.partitions)
    stream = streams.inbox_stream(found.app)
    scheduled = f"regrow.timer.{subjects.token(found.app)}.{part}.{found.pid}.*.*"
    for subject in await bus.subjects(stream, scheduled):
        timer = await bus.last(stream, subject)
        message = histories.decode_or_none(timer.data) if timer is not None else None
        if isinstance(message, m.Timer):
            waiting.append(Waiting(message.op.n, "timer", due=message.due))
    return waiting
