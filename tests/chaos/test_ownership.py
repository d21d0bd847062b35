"""Who folds what is decided by epochs and leases: two hosts that think they own a process still write one history."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from chaoskit import LONG, Stack, until
from regrow.launcher import HostProcess

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600 if LONG else 150)]

CHILDREN, STEPS = 4, 1000 if LONG else 125
LIMIT = 300 if LONG else 120


def stop(host: HostProcess) -> None:
    os.kill(host.os_pid, signal.SIGSTOP)


def go_on(host: HostProcess) -> None:
    os.kill(host.os_pid, signal.SIGCONT)


async def test_two_hosts_own_the_same_partitions(stack: Stack) -> None:
    """Two hosts with valid leases that own everything by turns, and for a while both, write one history."""
    stack.env["REGROW_HOST_TTL"] = "30"
    first, second = await stack.host(), await stack.host()
    await stack.give(first)
    root = await stack.start("crowd", children=CHILDREN, steps=STEPS, seconds=0.05 if LONG else 0.005)
    result = asyncio.create_task(root.result(LIMIT))
    last = await stack.bus.last_seq(stack.inbox)
    for turn in range(20 if LONG else 6):
        last = await stack.stored(last + 20)
        if turn % 2:
            stop(first)  # it has inputs and outputs under way, and hears of its loss together with what came after it
        await stack.give(second)
        last = await stack.stored(last + 20)
        go_on(first)
        first, second = second, first
        assert not result.done()
    found = await result
    (await stack.log()).check(found, STEPS)


async def test_a_host_is_stopped_for_longer_than_its_lease(stack: Stack) -> None:
    """A host that wakes up after its lease and the streams' memory of ids are over writes nothing a second time."""
    await stack.supervise()
    sleeper, other = await stack.host(), await stack.host()
    await stack.shrink_windows(0.5)
    await stack.owned_by(sleeper, other)
    root = await stack.start("crowd", children=CHILDREN * 2, steps=STEPS, seconds=0.06 if LONG else 0.02)
    result = asyncio.create_task(root.result(LIMIT))
    last = await stack.bus.last_seq(stack.inbox)
    for _ in range(10 if LONG else 2):
        last = await stack.stored(last + 50)
        stop(sleeper)
        await stack.owned_by(other)
        last = await stack.stored(last + 50)
        assert not result.done()
        go_on(sleeper)
        await stack.owned_by(sleeper, other)
        sleeper, other = other, sleeper
    found = await result
    log = await stack.log()
    log.check(found, STEPS)
    assert log.repeated_results() == []


async def test_an_outage_kills_nobody(stack: Stack) -> None:
    """No host loses a partition because the NATS server was away for several of its leases, and all goes on."""
    await stack.supervise()
    first, second = await stack.host(), await stack.host()
    before = await stack.owned_by(first, second)
    root = await stack.start("crowd", children=CHILDREN, steps=STEPS, seconds=0.01)
    result = asyncio.create_task(root.result(LIMIT))
    last = await stack.stored(await stack.bus.last_seq(stack.inbox) + 50)
    await stack.outage(10.0 if LONG else 3.0)
    assert not result.done()
    await stack.stored(last + 50)

    async def renewed() -> bool:
        return len(await stack.bus.kv("regrow_hosts").keys()) == 2

    await until(renewed, "heartbeats after the outage")
    found = await result
    assert await stack.owners() == before
    (await stack.log()).check(found, STEPS)
