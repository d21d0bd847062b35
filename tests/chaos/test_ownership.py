"""Who folds what is decided by epochs and leases: two hosts that think they own a process still write one history."""

from __future__ import annotations

import os
import signal
from pathlib import Path

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


async def test_two_hosts_own_the_same_partitions(stack: Stack, tmp_path: Path) -> None:
    """Two hosts with valid leases that own everything by turns, and for a while both, write one history."""
    stack.env["REGROW_HOST_TTL"] = "60"
    first, second = await stack.host(), await stack.host()
    await stack.give(first)
    crowd = await stack.crowd(tmp_path, children=CHILDREN, steps=STEPS, seconds=0.05 if LONG else 0.005)
    last = await stack.bus.last_seq(stack.inbox)
    for turn in range(20 if LONG else 6):
        last = await stack.stored(last + 20)
        if turn % 2:
            stop(first)  # it has inputs and outputs under way, and hears of its loss together with what came after it
        await stack.give(second)
        last = await stack.stored(last + 20)
        go_on(first)
        first, second = second, first
        crowd.check_goes_on()
    await crowd.end(LIMIT)


async def test_a_host_is_stopped_for_longer_than_its_lease(stack: Stack, tmp_path: Path) -> None:
    """A host that wakes up after its lease and the streams' memory of ids are over writes nothing a second time."""
    await stack.supervise()
    sleeper, other = await stack.host(), await stack.host()
    await stack.shrink_windows(0.5)
    await stack.owned_by(sleeper, other)
    crowd = await stack.crowd(tmp_path, children=CHILDREN * 2, steps=STEPS, seconds=0.06 if LONG else 0.02)
    last = await stack.bus.last_seq(stack.inbox)
    for _ in range(10 if LONG else 2):
        last = await stack.stored(last + 50)
        stop(sleeper)
        await stack.owned_by(other)
        last = await stack.stored(last + 50)
        crowd.check_goes_on()
        go_on(sleeper)
        await stack.owned_by(sleeper, other)
        sleeper, other = other, sleeper
    assert (await crowd.end(LIMIT)).repeated_results() == []


async def test_an_outage_kills_nobody(stack: Stack, tmp_path: Path) -> None:
    """No host loses a partition because the NATS server was away for longer than its lease, and all goes on."""
    stack.env["REGROW_HOST_TTL"] = "4"  # who stands still for so long is dead
    await stack.supervise()
    first, second = await stack.host(), await stack.host()
    before = await stack.owned_by(first, second)
    crowd = await stack.crowd(tmp_path, children=CHILDREN, steps=STEPS, seconds=0.01)
    last = await stack.stored(await stack.bus.last_seq(stack.inbox) + 50)
    await stack.outage(20.0 if LONG else 6.0)
    crowd.check_goes_on()
    await stack.stored(last + 50)

    async def renewed() -> bool:
        return len(await stack.bus.kv("regrow_hosts").keys()) == 2

    await until(renewed, "heartbeats after the outage")
    await crowd.end(LIMIT)
    assert await stack.owners() == before
