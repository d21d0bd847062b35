"""Starts what schedules say is due: once each, on the newest build that has it, minding the run before.

NATS makes a message of each time that is due; whichever supervisor takes it derives the run's pid from that message's
sequence, so a repeat, or two supervisors, start it once. Before that the run is written into the schedule's record by
compare-and-set: who comes second sees the first. A run that cannot start yet (no host, or the last one still runs and
it is to wait) is given back, until the catch-up window is over.
"""

from __future__ import annotations

import time
from collections import defaultdict

from msgspec.structs import replace
from regrow_protocol import messages as m
from regrow_protocol import schedules, streams, subjects
from regrow_protocol.bus import Bus, Received
from regrow_protocol.errors import WrongRevision
from regrow_protocol.ids import PROCESS, derived_id
from regrow_protocol.schedules import Due, Schedule
from regrow_service.consumer import Consumer, Later
from regrow_service.logs import get_logger
from regrow_service.metrics import Metrics

from .choice import LiveBuild, newest
from .hosts import Group, Hosts
from .inboxes import Inboxes, UnknownApp
from .measures import SCHEDULED
from .partitions import Partitions

AGAIN = 1.0
"""Seconds until a run that cannot start yet is looked at again."""


class Schedules:
    """Of one supervisor; `consumer` does the work."""

    def __init__(
        self, bus: Bus, hosts: Hosts, partitions: Partitions, inboxes: Inboxes, metrics: Metrics, service: str
    ) -> None:
        self._bus, self._hosts, self._partitions, self._inboxes = bus, hosts, partitions, inboxes
        self._kv = bus.kv(schedules.BUCKET)
        self._counted = metrics[SCHEDULED]
        self._log = get_logger("schedules")
        self.consumer: Consumer[Due] = Consumer(
            bus,
            metrics,
            service=service,
            name="supervisor-schedules",
            stream=schedules.STREAM,
            filters=[schedules.DUE],
            decode=lambda data: m.decode(data, Due),
            handle=self._due,
        )

    async def _due(self, due: Due, message: Received) -> None:
        key = message.subject.removeprefix("regrow.schedule.due.")
        found = await self._kv.get(key)
        schedule = m.decode(found[0], Schedule) if found is not None else None
        if found is None or schedule is None or due.created != schedule.created or message.time < schedule.last_at:
            return  # it was removed, replaced by another, or a later run has begun
        revision = found[1]
        pid = derived_id(PROCESS, f"schedule {key} {message.seq}", message.time)
        if schedule.last != pid:
            if why := await self._why_not(schedule, message.time):
                await self._write(key, replace(schedule, skipped=schedule.skipped + 1), revision)
                self._counted.labels(schedule.app, "skipped").inc()
                self._log.info("scheduled run dropped", schedule=schedule.name, app=schedule.app, reason=why)
                return
            await self._make_room(schedule, pid)
        build = self._build(schedule)
        if build is None:
            raise Later(f"no host of {schedule.app} has {schedule.type}", delay=AGAIN)
        if schedule.last != pid:
            taken = replace(schedule, last=pid, last_at=message.time, runs=schedule.runs + 1)
            await self._write(key, taken, revision)
        await self._start(schedule, pid, build)
        self._counted.labels(schedule.app, "started").inc()
        self._log.info("scheduled run", schedule=schedule.name, app=schedule.app, pid=pid)

    async def _why_not(self, schedule: Schedule, due_at: float) -> str:
        """Why a run is dropped; empty when it is not."""
        if schedule.paused:
            return "paused"
        if time.time() - due_at > schedule.catch_up:
            return "too late"
        if schedule.overlap == "skip" and schedule.last and await self._runs(schedule.app, schedule.last):
            return "the last run is not over"
        return ""

    async def _make_room(self, schedule: Schedule, pid: str) -> None:
        """Wait for the end of the last run, where this one may not run beside it."""
        if schedule.overlap == "allow" or not schedule.last or not await self._runs(schedule.app, schedule.last):
            return
        if schedule.overlap == "cancel":
            reason = f"the next run of schedule {schedule.name} is due"
            await self._send(schedule.app, schedule.last, m.Cancel(reason=reason), f"{pid}.cancels")
        raise Later("the last run is not over", delay=AGAIN)

    async def _write(self, key: str, schedule: Schedule, revision: int) -> None:
        try:
            await self._kv.update(key, m.encode(schedule), revision)
        except WrongRevision:
            raise Later("the schedule was changed meanwhile") from None

    async def _runs(self, app: str, pid: str) -> bool:
        last = await self._bus.last(streams.EVENTS, subjects.events_of(app, pid))
        return last is None or not m.decode(last.data, m.EventRecord).final

    def _build(self, schedule: Schedule) -> str | None:
        members: dict[Group, list[m.HostRecord]] = defaultdict(list)
        for host in self._hosts.living():
            if host.app == schedule.app and not host.draining:
                members[Group(host.app, host.build)].append(host)
        builds = [LiveBuild.of(g.build, each, self._partitions.builds.get(g)) for g, each in members.items()]
        target = schedule.program.target if schedule.program is not None else ""
        return newest(builds, schedule.type, target) or newest(builds, schedule.type, "")

    async def _start(self, schedule: Schedule, pid: str, build: str) -> None:
        start = m.Start(
            type=schedule.type, args=schedule.args, build=build, program=schedule.program, fold=m.FOLD,
            tags={"schedule": schedule.name, **schedule.tags},
        )  # fmt: skip
        try:
            await self._send(schedule.app, pid, start, pid, first=True)
        except WrongRevision:
            return  # it was started before

    async def _send(self, app: str, pid: str, message: m.Message, msg_id: str, *, first: bool = False) -> None:
        try:
            await self._inboxes.send(app, pid, message, msg_id, first=first)
        except UnknownApp as error:
            raise Later(str(error), delay=AGAIN) from None
