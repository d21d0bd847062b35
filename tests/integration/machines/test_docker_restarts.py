"""Docker machines whose engine, or container, goes away: told as lost, or to be tried again."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from docker_engine import (
    IMAGE,
    Engine,
    NoEngine,
    base_image,
    docker_backend,  # noqa: F401 - fixture
    docker_client,  # noqa: F401
    docker_engine,  # noqa: F401
    opened,
    own,
    restarted,
)
from regrow_machine_manager.backend import BackendUnavailable, Data, MachineLost, Node
from regrow_machine_manager.backends.docker import DockerBackend
from regrow_protocol.ids import new_id
from regrow_protocol.images import DockerImage

pytestmark = [
    pytest.mark.docker,
    pytest.mark.xdist_group("docker"),
    # The SDK leaves a socket to be collected where an engine ends in the moment in which it connects.
    pytest.mark.filterwarnings("ignore:unclosed <socket.socket fd=[0-9]+, family=1:ResourceWarning"),
]


@pytest.fixture
def private_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine that only this test uses."""
    try:
        with own() as engine:
            base_image(engine)
            monkeypatch.setenv("DOCKER_HOST", engine.url)
            yield engine
    except NoEngine as error:
        pytest.skip(str(error))
    gc.collect()


@pytest_asyncio.fixture
async def backend(private_engine: Engine, tmp_path: Path) -> AsyncIterator[DockerBackend]:
    async with opened(tmp_path) as made:
        yield made


async def spawn(backend: DockerBackend) -> Data:
    return (await backend.spawn(new_id("m"), DockerImage(IMAGE, pull="never"), load={})).data


async def test_without_an_engine_the_backend_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (f"unix://{tmp_path}/none", "tcp://127.0.0.1:1", "ssh://somewhere", "nonsense://"):
        monkeypatch.setenv("DOCKER_HOST", url)
        backend = DockerBackend(Node("n", tmp_path))
        with pytest.raises(BackendUnavailable, match="DOCKER_HOST"):
            await backend.open()
        await backend.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_an_engine_that_restarts(private_engine: Engine, backend: DockerBackend, how: signal.Signals) -> None:
    """While it is gone every call is to be tried again; after it the machine goes on with its files."""
    data = await spawn(backend)
    await backend.write(data, "/workspace/file", b"kept")
    await backend.write(data, f"{backend.state(data)}/file", b"kept")
    script = "touch /tmp/on; sleep 1000"
    running = asyncio.create_task(backend.exec(data, ["sh", "-c", script]))
    await backend.exec(data, ["sh", "-c", "until [ -e /tmp/on ]; do sleep 0.02; done"])

    async with restarted(private_engine, how):
        with pytest.raises(BackendUnavailable):
            await running
        for call in (
            backend.exec(data, ["true"]), backend.read(data, "/etc/passwd"), backend.stop(data), backend.made(),
            backend.attach(data), backend.snapshot(data, new_id("s")), spawn(backend),
        ):  # fmt: skip
            with pytest.raises(BackendUnavailable):
                await call

    assert await backend.read(data, "/workspace/file") == b"kept"
    assert await backend.read(data, f"{backend.state(data)}/file") == b"kept"
    assert await backend.attach(data)
    assert len(await backend.made()) == 1


async def test_a_machine_that_is_removed_while_a_program_runs_is_lost(
    docker_backend: DockerBackend, docker_client: Any  # noqa: F811
) -> None:  # fmt: skip
    data = await spawn(docker_backend)
    running = asyncio.create_task(docker_backend.exec(data, ["sh", "-c", "touch /tmp/on; sleep 1000"]))
    await docker_backend.exec(data, ["sh", "-c", "until [ -e /tmp/on ]; do sleep 0.02; done"])
    docker_client.remove_container(data["container"], force=True, v=True)
    with pytest.raises(MachineLost):
        await running


async def test_a_container_that_stopped_starts_again(
    docker_backend: DockerBackend, docker_client: Any  # noqa: F811
) -> None:  # fmt: skip
    """Also when ten find it stopped at once."""
    data = await spawn(docker_backend)
    await docker_backend.write(data, "/workspace/file", b"kept")
    docker_client.kill(data["container"])
    docker_client.wait(data["container"])
    done = await asyncio.gather(*(docker_backend.read(data, "/workspace/file") for _ in range(10)))
    assert done == [b"kept"] * 10
    docker_client.kill(data["container"])
    docker_client.wait(data["container"])
    assert await docker_backend.attach(data)
    assert docker_client.inspect_container(data["container"])["State"]["Running"]


async def test_root_that_ends_everything_restarts_the_machine(docker_backend: DockerBackend) -> None:  # noqa: F811
    """The program that did it may have run, so that is for its caller to know; the next one runs."""
    data = await spawn(docker_backend)
    killer = asyncio.create_task(docker_backend.exec(data, ["sh", "-c", "kill -9 -1; sleep 1000"], user="root"))
    with pytest.raises(BackendUnavailable, match="may have run"):
        await killer
    assert (await docker_backend.exec(data, ["echo", "x"])).stdout == b"x\n"


async def test_a_paused_machine_waits(docker_backend: DockerBackend, docker_client: Any) -> None:  # noqa: F811
    data = await spawn(docker_backend)
    docker_client.pause(data["container"])
    calls = [asyncio.create_task(docker_backend.exec(data, ["echo", str(n)])) for n in range(3)]
    done, _ = await asyncio.wait(calls, timeout=0.3)
    assert not done
    docker_client.unpause(data["container"])
    assert [(await call).stdout for call in calls] == [b"0\n", b"1\n", b"2\n"]


async def test_the_manager_is_killed(docker_engine: Engine, docker_backend: DockerBackend) -> None:  # noqa: F811
    """Machines are none of its children: they, and what runs on them, go on."""
    data = await spawn(docker_backend)
    program = f"""
import asyncio, pathlib, os
from regrow_machine_manager.backend import Node
from regrow_machine_manager.backends.docker import DockerBackend
async def main():
    backend = DockerBackend(Node({docker_backend.node.name!r}, pathlib.Path({str(docker_backend.node.folder)!r})))
    await backend.open()
    script = "echo on >/tmp/on; until [ -e /tmp/go ]; do sleep 0.02; done; echo done >/tmp/done"
    await backend.exec({data!r}, ["sh", "-c", script])
asyncio.run(main())
"""
    caller = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    await docker_backend.exec(data, ["sh", "-c", "until [ -s /tmp/on ]; do sleep 0.02; done"])
    caller.kill()
    await caller.wait()
    done = await docker_backend.exec(data, ["sh", "-c", "touch /tmp/go; until [ -s /tmp/done ]; do sleep 0.02; done"])
    assert done.exit_code == 0
