"""Restart storms: whatever fails how often, everybody else is answered, and each restart is counted, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from chaoskit import LONG, Stack
from regrow.client import RemoteProcess
from regrow.launcher import HostProcess
from regrow_protocol import messages as m

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900 if LONG else 240)]

PROGRAMS = Path(__file__).with_name("programs_storm.py")
WAIT = 800 if LONG else 200
CHILDREN, FAILURES = (500, 10) if LONG else (200, 3)
HASTY = 5_000 if LONG else 300
GROWTH = 150 << 20
"""Bytes by which a host may have grown."""


async def one_host(stack: Stack) -> HostProcess:
    await stack.supervise()
    host = await stack.host(PROGRAMS)
    await stack.owned_by(host)
    return host


@asynccontextmanager
async def asked(process: RemoteProcess) -> AsyncIterator[None]:
    """Meanwhile, and first of all, it is called all the time, and every call is answered."""
    answered = 0

    async def ask() -> None:
        nonlocal answered
        while True:
            assert await process.call("ping", text=str(answered), wait=True, timeout=WAIT) == str(answered)
            answered += 1

    asking = asyncio.create_task(ask())
    try:
        while not (answered or asking.done()):
            await asyncio.sleep(0.01)
        yield
    finally:
        ended = asking.done()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    if ended:
        await asking


async def outcome(process: RemoteProcess) -> Any:
    """What it told, once it was through; it goes on answering."""
    async with asyncio.timeout(WAIT):
        async for event in process.events():
            if event.type == "over":
                return event.data
    raise AssertionError("it ended without a word")


async def announced(stack: Stack) -> dict[str, list[m.EventRecord]]:
    """By pid, all events, in their order; each was recorded once, and no id stands for two messages."""
    log = await stack.log()
    assert log.ambiguous() == []
    assert log.repeated_events() == []
    found: dict[str, list[m.EventRecord]] = {}
    for (pid, _), (record,) in sorted(log.events.items()):
        found.setdefault(pid, []).append(record)
    return found


def lives(events: dict[str, list[m.EventRecord]], type_: str) -> list[list[tuple[str, int]]]:
    """Of the processes of a type, each one's events with their incarnations."""
    of_type = [records for records in events.values() if records[0].meta is not None and records[0].meta.type == type_]
    return [[(record.type, record.incarnation) for record in records] for records in of_type]


def life(failures: int) -> list[tuple[str, int]]:
    """The events of one that failed so many times."""
    return [("started", 0), *(("restarted", run) for run in range(1, failures + 1)), ("done", failures)]


async def test_many_children_fail_at_once_over_two_hosts(stack: Stack) -> None:
    """Each is started again as often as it fails, also when a host is killed; the parent answers; memory is bounded."""
    first = await one_host(stack)
    second = await stack.host(PROGRAMS)
    await stack.owned_by(first, second)
    system = psutil.Process(second.os_pid)
    before = system.memory_info().rss
    storm = await stack.start("storm", children=CHILDREN, failures=FAILURES)
    async with asked(storm):
        await stack.stored(CHILDREN * 3)
        await stack.kill(first)
        assert await outcome(storm) == CHILDREN * FAILURES
    assert system.memory_info().rss - before < GROWTH
    assert lives(await announced(stack), "stubborn") == [life(FAILURES)] * CHILDREN


async def test_a_child_that_always_fails_at_once_under_a_great_intensity(stack: Stack) -> None:
    """The group answers calls meanwhile; what it allows is exact: as many failures, and not one more."""
    host = await one_host(stack)
    system = psutil.Process(host.os_pid)
    before = system.memory_info().rss
    within = await stack.start("patient", failures=HASTY, max_restarts=HASTY)
    async with asked(within):
        assert await outcome(within) == HASTY
    beyond = await stack.start("patient", failures=HASTY, max_restarts=HASTY - 1)
    async with asked(beyond):
        assert await outcome(beyond) == -HASTY
    assert system.memory_info().rss - before < GROWTH
    events = await announced(stack)
    gave_up = [*life(HASTY - 1)[:-1], ("failed", HASTY - 1)]
    assert sorted(lives(events, "stubborn")) == sorted([life(HASTY), gave_up])
    assert lives(events, "bystander") == [[("started", 0), ("cancelled", 0)]] * 2


@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all"])
async def test_failures_climb_through_groups_of_groups(stack: Stack, strategy: str) -> None:
    """Every group gives up after as many failures as it allows; in the end the outermost does, and nobody is left."""
    depth, most = (4, 2) if LONG else (2, 2)
    await one_host(stack)
    process = await stack.start("outermost", depth=depth, max_restarts=most, strategy=strategy)
    async with asked(process):
        assert await outcome(process) == "RestartIntensityExceeded"
    await process.call("finish")
    await process.result(WAIT)
    events = await announced(stack)
    assert all(records[-1].final for records in events.values())
    each = most + 1
    begun = Counter(
        records[0].meta.type
        for records in events.values()
        for record in records
        if record.type in ("started", "restarted") and records[0].meta is not None
    )
    assert begun["stubborn"] == each ** (depth + 1)
    assert begun["level"] == sum(each**n for n in range(depth + 1))
