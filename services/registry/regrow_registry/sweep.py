"""What was missed: records of processes that have ended, names of such, grants of what is gone."""

from __future__ import annotations

import asyncio
import bisect

import msgspec
from msgspec.structs import replace
from regrow_protocol import agents, messages, subjects
from regrow_protocol.agents import AgentRecord
from regrow_protocol.bus import Bus
from regrow_protocol.endpoints import EndpointsRecord
from regrow_protocol.errors import RegrowError
from regrow_protocol.messages import EventRecord, ProcessRecord
from regrow_protocol.streams import EVENTS
from regrow_service.logs import get_logger
from regrow_service.metrics import Metrics

from .handling import end
from .measures import GRANTS, PROCESSES, PUBLIC, REPAIRS
from .records import Records, is_over

RUNNING = "running"
AT_ONCE = 32
IN_TURN = 500
"""Processes that are looked at in one sweep; the next one goes on with the others."""


class Sweep:
    """Of one registry; `run` does it.

    Args:
        bus: connected.
        records: followed by their own task.
        metrics: where to count.
        pause: seconds between two looks.
    """

    def __init__(self, bus: Bus, records: Records, metrics: Metrics, pause: float) -> None:
        self._bus = bus
        self._records = records
        self._metrics = metrics
        self._pause = pause
        self._looked_at = ""
        self._log = get_logger("sweep")

    async def run(self) -> None:
        """Look, for ever; may be cancelled at any moment."""
        await self._records.current.wait()
        while True:
            try:
                await self._processes()
                await self._names()
                await self._grants()
            except (RegrowError, msgspec.MsgspecError) as error:
                self._log.warning("records could not be looked at", reason=str(error))
            self._metrics[PROCESSES].set(len(self._records.living))
            self._metrics[PUBLIC].set(len(self._records.names))
            self._metrics[GRANTS].set(len(self._records.grants))
            await asyncio.sleep(self._pause)

    async def _processes(self) -> None:
        hands = asyncio.Semaphore(AT_ONCE)

        async def look(pid: str, app: str) -> None:
            async with hands:
                if await self._has_ended(pid, app):
                    await self._end(pid)

        async with asyncio.TaskGroup() as group:
            for pid, app in self._next():
                group.create_task(look(pid, app))

    def _next(self) -> list[tuple[str, str]]:
        living = sorted(self._records.living.items())
        start = bisect.bisect_right(living, (self._looked_at, "\uffff"))
        chosen = living[start : start + IN_TURN]
        self._looked_at = chosen[-1][0] if len(chosen) == IN_TURN else ""
        return chosen

    async def _has_ended(self, pid: str, app: str) -> bool:
        """Whether it is known to have ended: by the list of processes, or its last event where the list is behind."""
        found = await self._bus.kv("regrow_processes").get(pid)
        record = messages.decode(found[0], ProcessRecord) if found is not None else None
        if record is not None:
            return record.status != RUNNING
        last = await self._bus.last(EVENTS, subjects.events_of(app, pid))
        return last is not None and messages.decode(last.data, EventRecord).final

    async def _end(self, pid: str) -> None:
        def ended(record: EndpointsRecord | None) -> EndpointsRecord | None:
            return None if record is None or record.ended else replace(record, endpoints={}, since={}, ended=True)

        record = await self._records.change(pid, ended)
        if record is not None:
            self._log.info("a process that has ended is withdrawn", pid=pid, app=record.app)
            self._metrics[REPAIRS].labels("process").inc()
            await end(self._records, pid, record.name)

    async def _names(self) -> None:
        records = self._records
        wanted = {kept.record.name for kept in records.public.values()}
        for name in wanted | records.names.keys():
            if records.serving(name) is None:
                self._metrics[REPAIRS].labels("name").inc()
                await records.settle(name)

    async def _grants(self) -> None:
        records = self._records
        for kept in list(records.grants.values()):
            grant = kept.record
            if is_over(grant):
                records.grants.pop(grant.id, None)
                continue
            found = await self._bus.kv(agents.BUCKET).get(f"agent.{grant.agent}")
            gone = found is None or messages.decode(found[0], AgentRecord).state == "ended"
            if gone or await self._has_ended(grant.pid, grant.app):
                self._metrics[REPAIRS].labels("grant").inc()
                await records.revoke(grant.id, lambda _: True)
