"""Histories of what has ended are kept for a while, and then purged: whole trees, oldest first.

A process is purged when it and the root of its tree have ended that long ago, so whoever still runs finds those that it
has watched. Its record goes last: who dies in between begins again with it. What a process leaves behind is its inbox,
its timers, its events, and its agents with their conversations; large values are shared by what they hold, and stay.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import msgspec
from regrow_protocol import agents, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.agents import AgentRecord
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError
from regrow_protocol.ids import partition_of
from regrow_protocol.messages import AppRecord, ProcessRecord
from regrow_service.logs import get_logger
from regrow_service.metrics import Metrics
from regrow_service.service import until

from .measures import PURGED
from .records import RUNNING, read_record

BUCKET = "regrow_processes"
EVERY = 3600.0
FIRST = 60.0
"""Seconds after its start until a supervisor looks for the first time."""
AT_ONCE = 16


async def expired(bus: Bus, before: float, *, app: str = "") -> list[ProcessRecord]:
    """The processes whose tree had ended before `before` (seconds since 1970), oldest first; of one app, or of all."""
    kv = bus.kv(BUCKET)
    known: dict[str, ProcessRecord] = {}
    position = 1
    while True:
        batch, pending = await bus.get_batch(kv.stream, f"{kv.prefix}*", position)
        for message in batch:
            record = read_record(message.data) if message.data else None
            if record is not None:
                known[record.pid] = record
        if not batch or not pending:
            break
        position = batch[-1].seq + 1

    def over(record: ProcessRecord | None) -> bool:
        return record is None or (record.status != RUNNING and 0 < record.ended < before)

    found = [r for r in known.values() if app in ("", r.app) and over(r) and over(known.get(r.root or r.pid))]
    return sorted(found, key=lambda record: (record.ended, record.pid))


async def agents_of(bus: Bus) -> dict[str, list[AgentRecord]]:
    """Agents by the pid of their owner."""
    found: dict[str, list[AgentRecord]] = defaultdict(list)
    async for entry in bus.kv(agents.BUCKET).items("agent.*"):
        try:
            record = m.decode(entry.value, AgentRecord)
        except msgspec.MsgspecError:  # of another version: not ours to judge
            continue
        found[record.owner.pid].append(record)
    return found


async def purge(bus: Bus, record: ProcessRecord, owned: list[AgentRecord]) -> int:
    """Remove all that a process has left; how many messages that were."""
    app, pid = record.app, record.pid
    removed = 0
    found = await bus.kv("regrow_partitions").get(f"app.{subjects.token(app)}")
    if found is not None:
        part = partition_of(pid, m.decode(found[0], AppRecord).partitions)
        stream = streams.inbox_stream(app)
        removed += await bus.purge(stream, f"regrow.timer.{subjects.token(app)}.{part}.{pid}.>")
        removed += await bus.purge(stream, subjects.inbox(app, part, pid))
    for agent in owned:
        removed += await bus.purge(streams.AGENTS, agents.conversation(agent.app, agent.id))
        await bus.kv(agents.BUCKET).purge(f"agent.{agent.id}", marker_ttl=60.0)
    removed += await bus.purge(streams.EVENTS, f"regrow.event.{subjects.token(app)}.{pid}.>")
    await bus.kv(BUCKET).purge(pid, marker_ttl=60.0)
    return removed


class Retention:
    """Of one supervisor; `run` does it.

    Args:
        bus: connected.
        metrics: where to count.
        keep: seconds that histories are kept; 0: for ever.
    """

    def __init__(self, bus: Bus, metrics: Metrics, keep: float) -> None:
        self._bus, self._keep = bus, keep
        self._purged = metrics[PURGED]
        self._log = get_logger("retention")

    async def run(self, stopping: asyncio.Event) -> None:
        """Look once in a while, until `stopping` is set."""
        if not self._keep:
            await stopping.wait()
            return
        await until(stopping, asyncio.sleep(min(FIRST, self._keep)))
        while not stopping.is_set():
            await until(stopping, self._look())
            await until(stopping, asyncio.sleep(min(EVERY, self._keep)))

    async def _look(self) -> None:
        try:
            found = await expired(self._bus, time.time() - self._keep)
            owned = await agents_of(self._bus) if found else {}
            for start in range(0, len(found), AT_ONCE):
                part = found[start : start + AT_ONCE]
                await asyncio.gather(*[purge(self._bus, each, owned.get(each.pid, [])) for each in part])
                self._purged.inc(len(part))
        except RegrowError as error:
            self._log.warning("histories are not purged now", reason=str(error))
            return
        if found:
            self._log.info("histories purged", processes=len(found), kept_for=self._keep)
