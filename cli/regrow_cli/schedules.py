"""Schedules as the command line reads and writes them; when their next runs are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError
from msgspec import Struct
from msgspec.structs import replace
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError, WrongRevision
from regrow_protocol.schedules import (
    BUCKET,
    STREAM,
    Due,
    Schedule,
    schedule_headers,
    schedule_key,
    schedule_subject,
)

from .durations import seconds
from .errors import UsageError

CHANGES = 20


class ScheduleNotFound(RegrowError):
    """There is no such schedule."""

    code = "schedule-not-found"


class ScheduleRow(Struct, kw_only=True):
    """A schedule in a list.

    Attributes:
        when: as it was given; `zone` for cron.
        next: its next runs, seconds since 1970; none while it is paused, or when it is over.
        last: pid of the last run, and when that was due.
    """

    name: str
    app: str
    type: str
    when: str
    zone: str
    overlap: str
    paused: bool
    next: list[float]
    last: str
    last_at: float
    runs: int
    skipped: int


def when_of(cron: str, every: str, at: str, zone: str) -> str:
    """One of the three as NATS has it.

    Raises:
        UsageError: not one of them is given, or it is none.
    """
    if sum(map(bool, (cron, every, at))) != 1:
        raise UsageError("Say when, once", hint="--cron '0 0 9 * * *', --every 10m or --at 2026-12-24T18:00")
    if zone and not cron:
        raise UsageError("--tz goes with --cron", hint="write the offset into --at, as 2026-12-24T18:00+01:00")
    if cron:
        _times(cron, zone, time.time())
        return cron
    if every:
        span = seconds(every)
        if span < 1:
            raise UsageError(f"--every {every} is too short", hint="a second is the least")
        return f"@every {span:g}s"
    try:
        moment = datetime.fromisoformat(at).astimezone(UTC)
    except ValueError as error:
        raise UsageError(
            f"{at!r} is no time: {error}", hint="as 2026-12-24T18:00, or with an offset, +01:00"
        ) from error
    return f"@at {moment:%Y-%m-%dT%H:%M:%SZ}"


def _times(cron: str, zone: str, after: float) -> Iterator[datetime]:
    fields = cron.split()
    if len(fields) != 6:
        raise UsageError(f"{cron!r} has {len(fields)} fields", hint="six, seconds first: '0 30 9 * * MON-FRI'")
    try:
        tz = ZoneInfo(zone or "UTC")
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise UsageError(f"There is no time zone {zone!r}", hint="an IANA name, as Europe/Berlin") from error
    try:
        return CronSim(cron, datetime.fromtimestamp(after, tz))
    except CronSimError as error:
        raise UsageError(f"{cron!r} is no cron schedule: {error}", hint="as '0 30 9 * * MON-FRI'") from error


def next_runs(schedule: Schedule, most: int, now: float) -> list[float]:
    """When it is due next, seconds since 1970."""
    if schedule.paused:
        return []
    if schedule.when.startswith("@at "):
        at = datetime.fromisoformat(schedule.when.removeprefix("@at ")).timestamp()
        return [at] if at > now else []
    if schedule.when.startswith("@every "):
        span = seconds(schedule.when.removeprefix("@every "))
        first = schedule.last_at or schedule.created
        steps = max(1, int((now - first) // span) + 1)
        return [first + step * span for step in islice(count(steps), most)]
    return [moment.timestamp() for moment in islice(_times(schedule.when, schedule.zone, now), most)]


def row_of(schedule: Schedule, now: float, most: int = 3) -> ScheduleRow:
    """A record as a row."""
    return ScheduleRow(
        name=schedule.name, app=schedule.app, type=schedule.type, when=schedule.when, zone=schedule.zone,
        overlap=schedule.overlap, paused=schedule.paused, next=next_runs(schedule, most, now), last=schedule.last,
        last_at=schedule.last_at, runs=schedule.runs, skipped=schedule.skipped,
    )  # fmt: skip


async def records(bus: Bus) -> list[Schedule]:
    """All schedules, by app and name."""
    found: list[Schedule] = []
    async for entry in bus.kv(BUCKET).items():
        try:
            found.append(m.decode(entry.value, Schedule))
        except msgspec.MsgspecError:  # of another version
            continue
    return sorted(found, key=lambda schedule: (schedule.app, schedule.name))


async def find(bus: Bus, name: str, app: str) -> Schedule:
    """The schedule of that name.

    Raises:
        ScheduleNotFound: there is none.
        UsageError: several apps have one.
    """
    fitting = [each for each in await records(bus) if each.name == name and app in ("", each.app)]
    if not fitting:
        raise ScheduleNotFound(f"There is no schedule {name}", hint="`regrow schedule ls` lists them")
    if len(fitting) > 1:
        raise UsageError(f"{len(fitting)} apps have a schedule {name}", hint="--app " + fitting[0].app)
    return fitting[0]


async def add(bus: Bus, schedule: Schedule, *, replaces: bool) -> None:
    """Write a schedule, and have NATS keep it.

    Raises:
        UsageError: there is one of that name, and it shall not be replaced.
    """
    kv, key = bus.kv(BUCKET), schedule_key(schedule.app, schedule.name)
    try:
        await kv.create(key, m.encode(schedule))
    except WrongRevision:
        if not replaces:
            raise UsageError(f"There is a schedule {schedule.name} already", hint="--replace replaces it") from None
        await kv.put(key, m.encode(schedule))
    await bus.publish(
        STREAM,
        schedule_subject(schedule.app, schedule.name),
        m.encode(Due(schedule.created)),
        f"{key}.{schedule.created}",
        headers=schedule_headers(schedule),
    )


async def remove(bus: Bus, schedule: Schedule) -> None:
    """End a schedule; what it started goes on."""
    await bus.cancel_schedule(STREAM, schedule_subject(schedule.app, schedule.name))
    await bus.kv(BUCKET).purge(schedule_key(schedule.app, schedule.name), marker_ttl=60.0)


async def pause(bus: Bus, schedule: Schedule, *, paused: bool) -> None:
    """Start nothing of it, or go on."""
    kv, key = bus.kv(BUCKET), schedule_key(schedule.app, schedule.name)
    for _ in range(CHANGES):
        found = await kv.get(key)
        if found is None:
            raise ScheduleNotFound(f"The schedule {schedule.name} was removed meanwhile")
        try:
            await kv.update(key, m.encode(replace(m.decode(found[0], Schedule), paused=paused)), found[1])
        except WrongRevision:
            continue
        return
    raise WrongRevision(f"The schedule {schedule.name} was changed by others {CHANGES} times")
