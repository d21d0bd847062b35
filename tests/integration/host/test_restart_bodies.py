"""`restart` bodies: one run in each incarnation, whatever happens to their hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from host_bodies import HOLD, RUNS, body, quick_body
from regrow.errors import ExecutionCancelled
from regrow.testing import Runtime
from regrow_protocol import ids, subjects
from regrow_protocol import messages as m
from regrow_protocol.ids import new_id

Until = Callable[..., Awaitable[None]]


@pytest.fixture
def name() -> str:
    name = new_id("body")
    HOLD[name] = asyncio.Event()
    return name


async def claims(rt: Runtime, pid: str) -> list[int]:
    """Incarnations by their claims."""
    inbox = subjects.inbox(rt.app, ids.partition_of(pid, 16), pid)
    read = [m.decode_input(each.data) for each in await rt.bus.history(rt.host.inbox_stream, inbox)]
    return [message.incarnation for message in read if isinstance(message, m.Act) and message.what == "claim"]


async def test_a_body_begins_once(rt: Runtime, until: Until, name: str) -> None:
    """It is claimed, runs, and its process has its result."""
    process = await rt.start(body, name)
    await until(lambda: RUNS.count(name) == 1, "the body")
    HOLD[name].set()
    assert await process.result(20) == name
    assert await claims(rt, process.pid) == [0]
    assert RUNS.count(name) == 1


async def test_a_crash_right_after_the_start(rt: Runtime, until: Until, name: str) -> None:
    """Before any cursor was written: the next host begins a new incarnation, and acts of two runs never mix."""
    process = await rt.start(body, name)
    await until(lambda: RUNS.count(name) == 1, "the body")
    await rt.kill_host()
    await until(lambda: RUNS.count(name) == 2, "the second run")
    HOLD[name].set()
    assert await process.result(20) == name
    assert await claims(rt, process.pid) == [0, 1]
    events = [(event.type) async for event in process.events()]
    assert events == ["started", "began", "restarted", "began", "done"]


async def test_a_crash_when_the_end_is_only_queued(rt: Runtime, until: Until, name: str) -> None:
    """The process is woken by the next host, whose run gives the result."""
    process = await rt.start(body, name)
    await until(lambda: RUNS.count(name) == 1, "the body")
    partition = rt.host.partitions[ids.partition_of(process.pid, 16)]
    await partition.write_cursor()
    rt.host.bus.gate(lambda: False)
    HOLD[name].set()
    await until(lambda: partition.publishing.sending > 0, "the end act")
    await partition.write_cursor()
    assert process.pid in partition.keeper.cursor.busy
    await rt.kill_host()
    assert await process.result(20) == name


async def test_a_cancel_before_the_body_begins(rt: Runtime, until: Until, name: str) -> None:
    """It never runs, and its process has ended as cancelled."""
    process = await rt.start(body, name)
    await process.cancel()
    with pytest.raises(ExecutionCancelled):
        await process.result(20)


async def test_a_start_that_no_host_has_seen(rt: Runtime, until: Until) -> None:
    """A body that was started while there was no host is not taken for lost."""
    await rt.crash_host()
    process = await rt.start(quick_body)
    await rt.start_host()
    assert await process.result(20) == "done"
    assert await claims(rt, process.pid) == [0]
