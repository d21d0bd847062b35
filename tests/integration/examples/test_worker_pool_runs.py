"""The pool of agents on real services: every task is done, whatever is given up, crashes or is killed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from regrow import testing
from regrow.program import load
from regrow.testing.gateways import Gateway
from regrow.testing.managers import Manager

EXAMPLE = Path(__file__).parents[3] / "examples/worker_pool.py"
DONE = {"count these four words": "4 words", "a hard nut": "3 words", "a fragile vase is here": "5 words"}

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def pool() -> ModuleType:
    """The example, loaded as a host loads it."""
    program = load(str(EXAMPLE))
    return sys.modules[program.types["worker_pool"].function.__module__]


@pytest.fixture(scope="module")
def services() -> Iterator[None]:
    """A gateway and a manager of machines."""
    gateway, manager = Gateway(testing.nats_url()), Manager(testing.nats_url())
    try:
        gateway.start()
        manager.start()
        yield
    finally:
        gateway.close()
        manager.close()


@pytest.mark.usefixtures("services")
async def test_every_task_is_done(pool: ModuleType) -> None:
    """One that is given up is tried again, one that crashes goes on, and the host is killed in between."""
    async with testing.runtime(skip_time=False, url=testing.nats_url()) as rt:
        process = await rt.start(pool.worker_pool, pool.TASKS)
        async for event in process.events():
            if event.type == "attempt_failed":
                assert event.data["reason"] == "gave_up: too hard at first sight"
                await rt.kill_host()
        assert await process.result(60) == DONE
