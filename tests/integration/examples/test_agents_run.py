"""The examples with agents on real services, and with hosts that are killed in between."""

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

EXAMPLES = Path(__file__).parents[3] / "examples"
DONE = {"count these four words": "4 words", "a hard nut": "3 words", "a fragile vase is here": "5 words"}

pytestmark = pytest.mark.timeout(120)


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


def _example(name: str, root: str) -> ModuleType:
    """The example, loaded as a host loads it."""
    program = load(str(EXAMPLES / f"{name}.py"))
    return sys.modules[program.types[root].function.__module__]


@pytest.mark.usefixtures("services")
async def test_every_task_of_the_pool_is_done() -> None:
    """One that is given up is tried again, one that crashes goes on."""
    pool = _example("worker_pool", "worker_pool")
    async with testing.runtime(skip_time=False, url=testing.nats_url()) as rt:
        process = await rt.start(pool.worker_pool, pool.TASKS)
        async for event in process.events():
            if event.type == "attempt_failed":
                assert event.data["reason"] == "gave_up: too hard at first sight"
                await rt.kill_host()
        assert await process.result(60) == DONE


@pytest.mark.usefixtures("services")
async def test_the_author_mends_what_the_reviewer_criticises() -> None:
    review = _example("code_review", "code_review")
    async with testing.runtime(skip_time=False, url=testing.nats_url()) as rt:
        process = await rt.start(review.code_review, review.TASK)
        criticised = []
        async for event in process.events():
            if event.type == "criticised":
                criticised.append(event.data)
                await rt.kill_host()
        assert criticised == ["slug('Fail,  then regrow!') is 'fail,--then-regrow!'"]
        assert await process.result(60) == review.SECOND


@pytest.mark.usefixtures("services")
async def test_another_try_begins_where_the_last_one_stopped() -> None:
    """The first takes too long and the second gives up; the third one goes on in the file that they left."""
    second = _example("second_try", "supervisor")
    async with testing.runtime(skip_time=False, url=testing.nats_url()) as rt:
        process = await rt.start(second.supervisor, 10)
        reasons = []
        async for event in process.events():
            if event.type == "failed_once":
                reasons.append(event.data["reason"])
                if len(reasons) == 1:
                    await rt.kill_host()
        assert await process.result(60) == "counted from 5 to 10"
        assert len(reasons) == 2
        assert reasons[1] == "gave up: the steps from 5 on are too small for me"
