"""Machines made in advance, on a real Docker engine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from docker_engine import IMAGE, Engine, docker_engine  # noqa: F401 - a fixture
from machinekit import Fleet, eventually
from regrow_protocol.images import DockerImage, encode_image
from regrow_protocol.machines import Create, MachineRef

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]

WARM = ("--backends", "docker", "--warm", f"{IMAGE}=2")


@pytest_asyncio.fixture
async def dockers(
    fleet: Fleet,
    docker_engine: Engine,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Fleet]:
    """The fleet; its managers use the engine, and all machines are stopped at the end."""
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    yield fleet
    stop = await fleet.start("n1", "--backends", "docker")
    for record in await fleet.live():
        caller = await fleet.caller(record.app or "nobody")
        if record.app:
            await caller.stop(MachineRef(record.id, record.app, record.node, record.backend))

    async def empty() -> bool:
        return await fleet.live() == []

    await eventually(empty, "all machines are stopped")  # warm ones are no longer wanted
    assert await stop.terminate() == 0
    assert os.environ["DOCKER_HOST"] == docker_engine.url


async def warm(fleet: Fleet) -> list[str]:
    """Ids of the warm machines."""
    return [record.id for record in await fleet.live() if record.state == "warm"]


async def two_warm(fleet: Fleet) -> list[str]:
    """The ids, once there are two."""

    async def there() -> list[str]:
        found = await warm(fleet)
        return found if len(found) == 2 else []

    return await eventually(there, "two are warm")


async def test_a_warm_machine_is_taken_by_who_asks_for_an_equal_image(dockers: Fleet) -> None:
    """None is made for that; the pool fills up again; repeats get the same."""
    caller = await dockers.caller(process=True)
    async with dockers.inside("n1", *WARM):
        for _ in range(3):
            ready = await two_warm(dockers)
            create = caller.command("create", Create(encode_image(DockerImage(IMAGE)), name="mine"))
            ref = await caller.answer(await caller.send(create), MachineRef)
            assert ref.id in ready
            assert (await caller.exec(ref, "echo here")).stdout == b"here\n"
            record = await dockers.record(ref.id)
            assert (record.owner and record.owner.pid, record.name, record.app) == (caller.pid, "mine", caller.app)
        await two_warm(dockers)
        count = len(await dockers.records())
        await caller.send(create, msg_id="again")
        await eventually(dockers.idle, "the repeat is handled")
        await caller.stop(ref)
        await caller.send(create, msg_id="late")
        await eventually(dockers.idle, "the late repeat is handled")
        assert len(await dockers.records()) == count
        assert {repr(answer) for answer in caller.answers[create.id]} == {repr(caller.answers[create.id][0])}
        other = await caller.create(DockerImage(IMAGE, env={"A": "b"}))
        assert other.id not in await warm(dockers)


async def test_warm_machines_make_room(dockers: Fleet) -> None:
    """They are given up when the node has room for nothing else, even for who does not wait."""
    caller = await dockers.caller()
    async with dockers.inside("n1", "--max-machines", "2", *WARM):
        await two_warm(dockers)
        for number in range(2):
            await caller.create(DockerImage(IMAGE, env={"N": str(number)}))
        assert await warm(dockers) == []
        assert len(await dockers.live()) == 2
