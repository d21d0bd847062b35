"""Timers: armed here while a process is awake, in the stream when it rests, and never lost in between."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from host_bodies import brief_wait, sleeper
from regrow.testing import Runtime
from regrow_protocol import ids, subjects
from regrow_protocol import messages as m

Until = Callable[..., Awaitable[None]]


async def schedules(rt: Runtime) -> list[str]:
    return list(await rt.bus.subjects(rt.host.inbox_stream, f"regrow.timer.{subjects.token(rt.app)}.>"))


def resident(rt: Runtime, pid: str) -> bool:
    return pid in rt.host.partitions[ids.partition_of(pid, 16)].residents


async def test_a_time_limit_that_is_not_reached_costs_no_message(rt: Runtime, until: Until) -> None:
    """A distant timer that is dropped soon never gets to the stream."""
    assert await rt.run(brief_wait, 3600.0) == "in time"
    await none_is_left(rt)


async def test_a_distant_timer_goes_to_the_stream(rt: Runtime, until: Until) -> None:
    """Its process leaves memory, and wakes in time."""
    process = await rt.start(sleeper, 5.0)
    assert await process.call("ping", text="a", wait=True) == "a"
    await until(lambda: not resident(rt, process.pid), "parking")
    assert len(await schedules(rt)) == 1
    assert await process.result(20) == "awake"


async def test_a_cancelled_sleeper_leaves_no_schedule(rt: Runtime, until: Until) -> None:
    """What nobody waits for any more does not wake its process years later."""
    process = await rt.start(sleeper, 86400.0)
    assert await process.call("ping", text="a", wait=True) == "a"
    await until(lambda: not resident(rt, process.pid), "parking")
    assert len(await schedules(rt)) == 1
    await process.cancel()
    with pytest.raises(Exception, match="cancelled"):
        await process.result(15)
    await none_is_left(rt)


async def none_is_left(rt: Runtime) -> None:
    deadline = time.monotonic() + 20
    while left := await schedules(rt):
        assert time.monotonic() < deadline, left


async def test_a_sleep_for_ever_is_no_schedule(rt: Runtime, until: Until) -> None:
    """Its process rests all the same, and answers."""
    process = await rt.start(sleeper, 4e9)
    assert await process.call("ping", text="a", wait=True) == "a"
    await until(lambda: not resident(rt, process.pid), "parking")
    assert await schedules(rt) == []
    assert await process.call("ping", text="b") == "b"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_timer_survives_parking_and_resume(rt: Runtime, until: Until, when: str) -> None:
    """A process that is parked before or after its timer went to the stream is woken by it once it was resumed."""
    process = await rt.start(sleeper, 7.0)
    assert await process.call("ping", text="a", wait=True) == "a"
    if when == "after":
        await until(lambda: not resident(rt, process.pid), "parking")
    with pytest.raises(TimeoutError):
        await process.call("hang", timeout=0.2)
    part = rt.host.partitions[ids.partition_of(process.pid, 16)]
    await until(lambda: process.pid in part.stuck, "the end of the hanging turn")
    # The turn that hangs is made again, and hangs again, as long as its program is that: it is left out here.
    inbox = subjects.inbox(rt.app, part.number, process.pid)
    last = await rt.bus.last(rt.host.inbox_stream, inbox)
    assert last is not None
    await rt.bus.request(
        f"$JS.API.STREAM.MSG.DELETE.{rt.host.inbox_stream}", m.encode({"seq": part.stuck[process.pid].seq})
    )
    await rt.client.send(rt.app, process.pid, m.Resume())
    assert await process.result(20) == "awake"


async def test_a_timer_survives_a_crash(rt: Runtime, until: Until) -> None:
    """Whether it was armed or in the stream."""
    rt.host.options = rt.options = replace(rt.options, schedule_after=4.0)
    armed, stored = await rt.start(sleeper, 3.5), await rt.start(sleeper, 6.0)
    for process in (armed, stored):
        assert await process.call("ping", text="a", wait=True) == "a"
    await until(lambda: not resident(rt, stored.pid), "parking")
    await rt.kill_host()
    assert await armed.result(20) == "awake"
    assert await stored.result(20) == "awake"
