"""Whatever is killed during a run of 500 steps or more: its result is made of each step's first recorded outcome."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaoskit import LONG, Stack

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600 if LONG else 150)]

CHILDREN, STEPS = 4, 125
KILLS = 20 if LONG else 5
PACE = 0.02 if LONG else 0.005
"""Seconds of a step."""
LIMIT = 300 if LONG else 100


async def test_a_host_is_killed_again_and_again(stack: Stack, tmp_path: Path) -> None:
    """However often the host is killed, the result is right and each step's recorded outcome is counted once."""
    await stack.supervise()
    host = await stack.host()
    crowd = await stack.crowd(tmp_path, children=CHILDREN, steps=STEPS, seconds=PACE)
    last = await stack.bus.last_seq(stack.inbox)
    for _ in range(KILLS):
        last = await stack.stored(last + CHILDREN * STEPS // (KILLS * 3))
        await stack.kill(host)
        crowd.check_goes_on()
        host = await stack.host()
    await crowd.end(LIMIT)


async def test_the_supervisor_and_the_server_are_killed(stack: Stack, tmp_path: Path) -> None:
    """A supervisor that is killed, then the server, then a host with the supervisor: nothing is lost or done twice."""
    supervisor = await stack.supervise()
    host = await stack.host()
    crowd = await stack.crowd(tmp_path, children=CHILDREN, steps=STEPS, seconds=PACE)
    last = await stack.bus.last_seq(stack.inbox)
    for turn in range(6 if LONG else 2):
        last = await stack.stored(last + 10)
        await stack.end(supervisor)
        last = await stack.stored(last + 10)  # nothing needs it
        if turn % 2:
            await stack.kill(host)
        supervisor = await stack.supervise()
        if turn % 2:
            host = await stack.host()
        last = await stack.stored(last + 10)
        crowd.check_goes_on()
        await stack.outage(0.0)
    await crowd.end(LIMIT)


async def test_the_server_is_killed_again_and_again(stack: Stack, tmp_path: Path) -> None:
    """What was acknowledged is there after the server's crash, and what was not is sent again under its id."""
    await stack.supervise()
    await stack.host()
    crowd = await stack.crowd(tmp_path, children=CHILDREN, steps=STEPS, seconds=PACE)
    last = await stack.bus.last_seq(stack.inbox)
    for _ in range(KILLS):
        last = await stack.stored(last + CHILDREN * STEPS // (KILLS * 3))
        crowd.check_goes_on()
        await stack.outage(0.0)
    await crowd.end(LIMIT)
