"""A body that does not behave is parked after at most three hosts, and its neighbours go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaoskit import Stack, until
from regrow.launcher import HostProcess
from regrow_protocol import messages as m

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

MEMORY = 3 << 30
"""Bytes of address space: a host has threads, whose stacks count."""


MOST = 3
"""Hosts that a body may take down before it is parked."""


async def parked(stack: Stack, host: HostProcess, pid: str) -> m.Stuck:
    """Wait until a process is parked; how it is noted."""

    async def noted() -> m.Stuck | None:
        assert host.deaths <= MOST, "it is not parked after three hosts"
        return (await stack.stuck()).get(pid)

    return await until(noted, "parking")


@pytest.mark.parametrize("after", [0, 1], ids=["at-once", "after-a-step"])
@pytest.mark.parametrize("type_", ["hangs", "blocks", "kills_its_host"])
async def test_a_body_that_takes_hosts_down(stack: Stack, type_: str, after: int) -> None:
    """It is parked after at most three hosts, and its neighbour, and nobody else, answers calls."""
    stack.env["REGROW_TURN_LIMIT"] = "1"
    await stack.supervise()
    host = await stack.host(restart=True)
    neighbours = [await stack.start("neighbour") for _ in range(3)]
    for neighbour in neighbours:
        assert await neighbour.call("ping", text="before", wait=True) == "before"
    bad = await stack.start(type_, after=after)
    await parked(stack, host, bad.pid)
    assert host.deaths <= MOST
    for neighbour in neighbours:
        assert await neighbour.call("ping", text="after", wait=True) == "after"
    assert set(await stack.stuck()) == {bad.pid}
    assert host.deaths <= MOST


async def test_a_body_that_exhausts_memory(stack: Stack) -> None:
    """It fails or is parked after at most three hosts, and its neighbour answers calls."""
    stack.env["CHAOS_MEMORY"] = str(MEMORY)
    await stack.supervise()
    host = await stack.host(restart=True)
    neighbour = await stack.start("neighbour")
    assert await neighbour.call("ping", text="before", wait=True) == "before"
    bad = await stack.start("exhausts_memory", after=1)

    async def over() -> bool:
        return bad.pid in await stack.stuck() or await bad.status() == "failed"

    await until(over, "the end of the body")
    assert await neighbour.call("ping", text="after", wait=True) == "after"
    assert host.deaths <= MOST
    assert set(await stack.stuck()) <= {bad.pid}


async def test_a_body_that_diverges(stack: Stack, tmp_path: Path) -> None:
    """It is parked by the host that sees it; `resume` takes it up once the cause is gone, and it finishes."""
    source = tmp_path / "source"
    source.write_text("one")
    await stack.supervise()
    host = await stack.host(restart=True)
    neighbour = await stack.start("neighbour")
    bad = await stack.start("diverges", file=str(source))
    assert await bad.call("ping", text="before", wait=True) == "before"
    source.write_text("two")
    await stack.kill(host)
    assert await neighbour.call("ping", text="other", wait=True) == "other"
    await stack.client.send(
        stack.app, bad.pid, m.Signal(name="wake")
    )  # whoever is not in memory is folded again by an input
    stuck = await parked(stack, host, bad.pid)
    assert stuck.code == "nondeterminism", stuck
    assert set(await stack.stuck()) == {bad.pid}
    source.write_text("one")
    await stack.client.send(stack.app, bad.pid, m.Resume())
    await bad.call("finish", result="well", wait=True)
    assert await bad.result(30) == "well"
    assert host.deaths == 1
