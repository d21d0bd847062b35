"""Hosts that stop, hand over, or find that they have lost what they owned: nothing is done twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from host_bodies import HOLD, RUNS, holding, pinged
from regrow.host.host import Host
from regrow.program import LoadedProgram
from regrow.testing import Runtime
from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.ids import new_id

Until = Callable[..., Awaitable[None]]


@pytest_asyncio.fixture
async def second(rt: Runtime) -> AsyncIterator[Host]:
    """Another host of the same build, which owns nothing yet."""
    async with another(rt) as host:
        yield host


@asynccontextmanager
async def another(rt: Runtime, build: str = "", **options: Any) -> AsyncIterator[Host]:
    program = LoadedProgram("", rt.app, build or rt.build, rt._types, "")  # pyright: ignore[reportArgumentType]
    async with await Bus.connect(rt.url, name="another") as bus:
        host = Host(bus, program, url=rt.url, options=replace(rt.options, **options), clock=rt.clock)
        await host.start()
        yield host
        await host.stop()


async def own(rt: Runtime, host: Host, epoch: int) -> None:
    """Say that a host owns everything, whether or not it takes it."""
    for part in range(16):
        key = f"own.{subjects.token(rt.app)}.{host.env.build}.{part}"
        await rt.bus.kv("regrow_partitions").put(key, m.encode(m.Ownership(host.id, epoch)))


@pytest.fixture
def name() -> str:
    name = new_id("step")
    HOLD[name] = asyncio.Event()
    return name


async def results(rt: Runtime, pid: str) -> list[m.Result]:
    inbox = subjects.inbox(rt.app, ids.partition_of(pid, 16), pid)
    read = [m.decode_input(each.data) for each in await rt.bus.history(rt.host.inbox_stream, inbox)]
    return [message for message in read if isinstance(message, m.Result)]


async def test_a_graceful_stop_waits_for_a_step_and_no_longer(rt: Runtime, until: Until, name: str) -> None:
    """Its result is recorded once, it is not run again, and the stop takes no longer than the step."""
    rt.host.options = replace(rt.options, drain=60.0)
    process = await rt.start(holding, name)
    await until(lambda: RUNS.count(name) == 1, "the step")
    stopping = asyncio.ensure_future(rt.host.stop())
    later = time.monotonic() + 0.5
    await until(lambda: time.monotonic() > later, "some waiting")
    assert not stopping.done()
    HOLD[name].set()
    await asyncio.wait_for(stopping, 30)
    await rt.host.bus.close()
    await rt.start_host()
    assert await process.result(20) == name
    assert RUNS.count(name) == 1
    assert len(await results(rt, process.pid)) == 1


async def test_a_partition_that_moves_to_a_living_host(rt: Runtime, second: Host, until: Until) -> None:
    """It is handed over with a clean cursor, so the next owner needs no recovery; calls go on."""
    process = await rt.start(pinged)
    assert await process.call("ping", text="a", wait=True) == "a"
    calls = [asyncio.ensure_future(process.call("ping", text=str(i))) for i in range(200)]
    await rt.assign(second)
    assert await asyncio.gather(*calls) == [str(i) for i in range(200)]
    assert await process.call("ping", text="b") == "b"
    await until(lambda: not rt.host.partitions, "letting go")
    recorded = await rt.bus.history(streams.EVENTS, subjects.events_of(rt.app, process.pid))
    seqs = [m.decode(each.data, m.EventRecord).seq for each in recorded]
    assert seqs == list(range(1, len(seqs) + 1))
    await rt.assign(rt.host)


async def test_a_step_in_hand_when_its_partition_moves(rt: Runtime, until: Until, name: str) -> None:
    """The host that began it finishes it; the next one does not run it again."""
    rt.host.options = replace(rt.options, drain=60.0)
    process = await rt.start(holding, name)
    await until(lambda: RUNS.count(name) == 1, "the step")
    async with another(rt, drain=60.0) as second:
        moving = asyncio.ensure_future(rt.assign(second))
        await until(lambda: len(second.partitions) == 15, "all but one")
        HOLD[name].set()
        await moving
        assert await process.result(20) == name
        assert RUNS.count(name) == 1
        assert len(await results(rt, process.pid)) == 1
        await rt.assign(rt.host)


async def test_an_owner_that_never_began(rt: Runtime, second: Host, until: Until, name: str) -> None:
    """Who comes after it waits for the host that still finishes a step, not for that owner."""
    rt.host.options = replace(rt.options, drain=60.0)
    process = await rt.start(holding, name)
    await until(lambda: RUNS.count(name) == 1, "the step")
    async with another(rt, drain=60.0) as third:
        second._ownership.take_no_more()  # as one that is about to end
        await own(rt, second, 2)
        await second.stop()
        await own(rt, third, 3)
        await until(lambda: len(third.partitions) == 15, "all but one")
        HOLD[name].set()
        assert await process.result(20) == name
        assert RUNS.count(name) == 1
        await rt.assign(rt.host)


async def test_a_partition_on_probation_moves(rt: Runtime, second: Host, until: Until, name: str) -> None:
    """After a host died, a living one lets go while it is not known yet of what: that is no second death."""
    process = await rt.start(holding, name)
    await until(lambda: RUNS.count(name) == 1, "the step")
    part = ids.partition_of(process.pid, 16)
    await rt.crash_host()
    async with another(rt, drain=0.1) as third:
        await rt.assign(third)
        await until(lambda: RUNS.count(name) == 2, "the step, again")
        assert third.partitions[part].probation is not None
        await rt.assign(second)
        await until(lambda: RUNS.count(name) == 3, "the step, where it moved to")
        probation = second.partitions[part].probation
        assert probation is not None
        assert probation.suspect is not None
        assert probation.suspect.attempts == 1
    HOLD[name].set()
    assert await process.result(20) == name
    await rt.start_host()


async def test_what_waits_to_be_sent_when_ownership_is_lost(rt: Runtime, second: Host, until: Until, name: str) -> None:
    """A host that was silent for longer than its lease sends nothing for partitions that are another's by now."""
    process = await rt.start(holding, name)
    await until(lambda: RUNS.count(name) == 1, "the step")
    gated = rt.host.bus
    gated.gate(lambda: False)
    HOLD[name].set()
    await until(lambda: gated.backlog(rt.host.inbox_stream) > 0, "the result in the queue")
    first = rt.host
    await rt.assign(second)
    assert await process.result(20) == name
    await until(lambda: not first.partitions, "letting go")
    assert gated.backlog(first.inbox_stream) == 0
    gated.gate(first.lease.valid)
    await rt.assign(first)
    assert len(await results(rt, process.pid)) == 1
    assert RUNS.count(name) == 2


async def test_a_lease_that_is_renewed_too_late_was_lost(rt: Runtime, until: Until) -> None:
    """Even when the heartbeat comes back before anybody asks; the host reads what it owns and goes on."""
    process = await rt.start(pinged)
    assert await process.call("ping", text="a", wait=True) == "a"
    losses: list[bool] = []
    lease = rt.host.lease
    told = lease._on_lost
    lease._on_lost = lambda: (losses.append(True), told())[1]
    lease._until = 0.5  # as if the last heartbeat had been sent long ago
    await until(lambda: losses and not lease.lost, "loss and return of the lease")
    assert len(rt.host.partitions) == 16
    assert await process.call("ping", text="b") == "b"


async def test_an_upgrade_to_a_build_of_others(rt: Runtime, until: Until) -> None:
    """The old build's host lets the process go, once, and its floor passes that."""
    process = await rt.start(pinged)
    assert await process.call("ping", text="a", wait=True) == "a"
    partition = rt.host.partitions[ids.partition_of(process.pid, 16)]
    seq = await rt.client.send(rt.app, process.pid, m.Upgrade(build="another"))
    await until(lambda: partition.floor.value >= seq, "the floor")
    assert process.pid not in partition.residents
    again = await rt.client.send(rt.app, process.pid, m.Upgrade(build="another"))
    await until(lambda: partition.floor.value >= again, "the floor")
    back = await rt.client.send(rt.app, process.pid, m.Upgrade(build=rt.build))
    await until(lambda: partition.floor.value >= back, "the floor")
    assert await process.call("ping", text="b") == "b"


async def test_what_came_after_a_move_is_answered_though_the_old_build_has_passed_it(rt: Runtime, until: Until) -> None:
    """Its host lives on, and its floor says nothing of what came after the process was not its own any more."""
    process = await rt.start(pinged)
    assert await process.call("ping", text="a", wait=True) == "a"
    partition = rt.host.partitions[ids.partition_of(process.pid, 16)]
    async with another(rt, build="next") as host:
        seq = await rt.client.send(rt.app, process.pid, m.Upgrade(build="next"))
        call = asyncio.ensure_future(process.call("ping", text="b"))
        await until(lambda: partition.floor.value > seq, "the floor")
        await partition.write_cursor()
        await own(rt, host, 1)
        async with asyncio.timeout(20):
            assert await call == "b"


async def test_no_event_is_recorded_twice_beyond_the_window(rt: Runtime, until: Until) -> None:
    """A host that dies before it wrote a cursor leaves everything to be done again; the stream has it once."""
    events = streams.StreamSpec(streams.EVENTS, ("regrow.event.>",), duplicate_window=0.1)
    usual = streams.StreamSpec(streams.EVENTS, ("regrow.event.>",))
    await streams.ensure_specs(rt.bus, [events])
    try:
        process = await rt.start(pinged)
        for i in range(5):
            assert await process.call("ping", text=str(i), wait=True) == str(i)
        gone = time.monotonic() + 0.5
        await rt.crash_host()
        await until(lambda: time.monotonic() > gone, "the end of the window")
        await rt.start_host()
        assert await process.call("ping", text="b") == "b"

        async def recorded() -> list[int]:
            events = await rt.bus.history(streams.EVENTS, subjects.events_of(rt.app, process.pid))
            return [m.decode(each.data, m.EventRecord).seq for each in events]

        async with asyncio.timeout(20):  # an answer may be here before the event is stored
            while len(await recorded()) < 7:
                await asyncio.sleep(0.01)
        assert await recorded() == list(range(1, 8))
    finally:
        await streams.ensure_specs(rt.bus, [usual])
