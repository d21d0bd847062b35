"""A step or a `restart` body that ends its host is found out and parked after at most five hosts; the others go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaoskit import Stack, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

PROGRAM = Path(__file__).with_name("programs_work.py")
MOST = 5


@pytest.mark.parametrize("type_", ["step_kills", "body_kills"])
async def test_work_that_takes_hosts_down(stack: Stack, type_: str) -> None:
    """Its process is parked, and nobody else, though others have steps and bodies under way at the same time."""
    await stack.supervise()
    host = await stack.host(PROGRAM, restart=True)
    workers = [await stack.start("works", steps=20) for _ in range(3)]
    server = await stack.start("serves")
    for process in [*workers, server]:
        assert await process.call("ping", text="before", wait=True) == "before"
    bad = await stack.start(type_)

    async def parked() -> bool:
        assert host.deaths <= MOST, "it is not parked after five hosts"
        return bad.pid in await stack.stuck()

    await until(parked, "parking")
    for worker in workers:
        assert await worker.result(60) == list(range(20))
    assert await server.call("ping", text="after", wait=True) == "after"
    assert set(await stack.stuck()) == {bad.pid}
    assert host.deaths <= MOST


async def test_what_a_step_raises_never_ends_its_host(stack: Stack) -> None:
    """SystemExit, StopIteration and a CancelledError of its own are failures of the step."""
    await stack.supervise()
    host = await stack.host(PROGRAM, restart=True)
    process = await stack.start("odd_steps")
    assert await process.result(30) == ["SystemExit", "RuntimeError", "CancelledError"]
    assert host.deaths == 0
