"""Time in a process: timers that last a month, a clock that moves with its inputs, and chance that repeats."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import regrow
from regrow import agent_process, current_process, emit, is_replaying, now, sleep, spawn, uuid4
from regrow.testing import Runtime
from regrow_protocol import messages as m

from .looking import event, inputs

MONTH = 30 * 86_400.0


@agent_process
async def sleeps_a_month() -> float:
    before = now()
    await sleep(MONTH)
    await asyncio.sleep(MONTH)
    return (now() - before).total_seconds()


async def test_a_sleep_of_months_passes_at_once_and_moves_the_clock(rt: Runtime) -> None:
    """Two months of sleep take no time in a test, and now() has moved by as much."""
    begun = time.monotonic()
    assert await rt.run(sleeps_a_month) >= 2 * MONTH
    assert time.monotonic() - begun < 30


@agent_process
async def looks_at_the_clock() -> list[Any]:
    first, loop_time = now(), asyncio.get_running_loop().time()
    again = now()
    await sleep(60)
    later = now()
    return [first, first == again, (later - first).total_seconds(), asyncio.get_running_loop().time() - loop_time]


async def test_now_stands_still_within_a_turn_and_is_utc(rt: Runtime) -> None:
    """now() is an aware datetime in UTC near the real time; it moves only when something happens."""
    first, stood_still, moved, loop_moved = await rt.run(looks_at_the_clock)
    assert abs(datetime.fromisoformat(first) - datetime.now(UTC)) < timedelta(seconds=60)
    assert stood_still
    assert moved >= 60
    assert loop_moved >= 60


@agent_process
async def limits_a_wait() -> list[Any]:
    before = now()
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 86_400)
    except TimeoutError:
        waited = (now() - before).total_seconds()
    else:
        waited = 0.0
    in_time = await asyncio.wait_for(after(5, "in time"), 86_400)
    return [waited, in_time, (now() - before).total_seconds() < 2 * 86_400]


async def after(seconds: float, value: str) -> str:
    await sleep(seconds)
    return value


async def test_wait_for_is_a_durable_timer(rt: Runtime) -> None:
    """wait_for ends after its time on the process's clock, and takes no longer than what it waits for."""
    waited, in_time, soon = await rt.run(limits_a_wait)
    assert waited >= 86_400
    assert in_time == "in time"
    assert soon


@agent_process
async def draws(pause: bool) -> list[Any]:
    def drawn() -> list[Any]:
        generator = current_process().random
        return [
            now().isoformat(),
            str(uuid4()),
            regrow.random(),
            generator.randint(1, 10**9),
            generator.sample(range(99), 3),
        ]

    first = drawn()
    emit("drawn", first)
    if pause:
        await asyncio.wait_for(current_process_told.wait_in(), None)
    return [first, drawn()]


class _Told:
    """Waits for the call that lets the body go on."""

    async def wait_in(self) -> None:
        go = asyncio.Event()

        @regrow.expose
        async def go_on() -> None:
            go.set()

        await go.wait()


current_process_told = _Told()


async def test_now_uuid4_and_random_are_the_same_after_a_crash(rt: Runtime) -> None:
    """What a body drew before a crash it draws again in the replay, and what follows differs from it."""
    root = await rt.start(draws, pause=True)
    before = (await event(root, "drawn")).data
    await rt.kill_host()
    await root.call("go_on")
    first, second = await root.result(30)
    assert first == before
    assert second[1:4] != first[1:4]


async def test_two_processes_draw_different_chances(rt: Runtime) -> None:
    """uuid4 and random of two processes differ."""
    one, two = await asyncio.gather(rt.run(draws, pause=False), rt.run(draws, pause=False))
    assert one[0][1:4] != two[0][1:4]


@agent_process
async def orders_timers() -> list[str]:
    order: list[str] = []

    async def note_after(seconds: float, name: str) -> None:
        await sleep(seconds)
        order.append(name)

    loop = asyncio.get_running_loop()
    tasks = [
        asyncio.create_task(note_after(s, n))
        for s, n in ((3600, "hour"), (1, "second"), (86_400, "day"), (60, "minute"))
    ]
    loop.call_later(2, order.append, "call_later")
    cancelled = loop.call_later(30, order.append, "never")
    loop.call_at(loop.time() + 600, order.append, "call_at")
    cancelled.cancel()
    await asyncio.gather(*tasks)
    return order


async def test_timers_fire_in_the_order_of_their_times(rt: Runtime) -> None:
    """Timers fire in the order they are due, however they were set; a cancelled one never."""
    assert await rt.run(orders_timers) == ["second", "call_later", "minute", "call_at", "hour", "day"]


@agent_process
async def same_instant() -> list[int]:
    order: list[int] = []
    when = asyncio.get_running_loop().time() + 5
    for n in range(10):
        asyncio.get_running_loop().call_at(when, order.append, n)
    await sleep(6)
    return order


async def test_timers_for_the_same_instant_fire_in_the_order_they_were_set(rt: Runtime) -> None:
    """Of timers that are due together the first set fires first."""
    assert await rt.run(same_instant) == list(range(10))


@agent_process
async def ticks_after(seconds: float) -> float:
    await sleep(seconds)
    return now().timestamp()


@agent_process
async def orders_processes() -> list[bool]:
    late, early = spawn(ticks_after, 1000.0), spawn(ticks_after, 10.0)
    at_late, at_early = await late, await early
    return [at_early < at_late, now().timestamp() >= at_late]


async def test_time_of_a_parent_is_not_before_that_of_its_children(rt: Runtime) -> None:
    """Skipped time is one time for all: who hears of an end is never before it."""
    assert await rt.run(orders_processes) == [True, True]


@agent_process
async def rests(seconds: float) -> float:
    await sleep(seconds)
    return seconds


@agent_process
async def waits_for_resting() -> list[float]:
    return [await each for each in asyncio.as_completed([rests(100.0 - n) for n in range(8)])]


async def test_what_a_timer_leads_to_comes_before_the_next_timer(rt: Runtime) -> None:
    """Of processes that sleep the one that wakes first ends first, also where the computer stood still meanwhile."""

    async def stand_still() -> None:
        while True:
            rt.clock.skipped += 3.0
            await asyncio.sleep(0.001)

    standing = asyncio.create_task(stand_still())
    assert await rt.run(waits_for_resting) == [100.0 - n for n in reversed(range(8))]
    standing.cancel()


@agent_process
async def sleeps_once() -> str:
    emit("asleep")
    await sleep(MONTH)
    return "awake"


async def test_a_sleep_survives_a_crash_and_fires_once(rt: Runtime) -> None:
    """A process that sleeps when its host dies is woken by the next one, once."""
    root = await rt.start(sleeps_once)
    await rt.kill_host()
    assert await root.result(40) == "awake"
    assert len(await inputs(rt, root.pid, m.Timer)) == 1


@agent_process
async def notes_replays() -> list[bool]:
    return [is_replaying()]


async def test_is_replaying_is_false_in_a_turn_that_is_new(rt: Runtime) -> None:
    """A turn that was never applied before does not count as a replay."""
    assert await rt.run(notes_replays) == [False]
