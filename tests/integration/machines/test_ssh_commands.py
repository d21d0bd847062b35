"""Re-attachable commands over SSH, whose connection is cut while they run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from machine_waiting import until as eventually
from regrow_machine_manager.backend import BackendUnavailable, Data, Node
from regrow_machine_manager.backends.ssh import SSHBackend
from regrow_machine_manager.commands import Commands
from regrow_protocol.ids import new_id
from regrow_protocol.machines import Exec
from ssh_server import Login, SSHServer, make_login


@pytest.fixture(scope="module")
def login() -> Iterator[Login]:
    with make_login() as made:
        yield made


@pytest.fixture
def server(login: Login) -> Iterator[SSHServer]:
    with SSHServer(login) as made:
        yield made


@pytest_asyncio.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SSHBackend]:
    made = SSHBackend(Node("here", tmp_path))
    await made.open()
    yield made
    await made.close()


async def spawn(backend: SSHBackend, server: SSHServer, **options: object) -> Data:
    return (await backend.spawn(new_id("m"), server.image(**options), load={})).data


async def test_a_command_survives_its_connection(backend: SSHBackend, server: SSHServer) -> None:
    """A command whose connection is cut three times gives its real exit code and all of its output, having run once."""
    data = await spawn(backend, server)
    commands = Commands(backend)
    work = Path(data["workdir"])
    script = (
        "echo ran >> count; for i in 1 2 3; do echo part $i; echo e$i >&2; touch at$i; "
        "while [ ! -e go$i ]; do sleep 0.02; done; done; head -c 300000 /dev/zero; exit 42"
    )

    async def run() -> tuple[int, bytes, bytes]:
        while True:  # as the manager does: the same call again attaches
            with contextlib.suppress(BackendUnavailable):
                done = await commands.run(data["machine"], data, "p_1.1.1", Exec(script, timeout=60))
                return done.exit_code, done.stdout, done.stderr

    running = asyncio.create_task(run())
    for i in (1, 2, 3):
        await eventually((work / f"at{i}").exists, f"part {i}")
        await eventually(server.logins, "it attached again")
        assert await asyncio.to_thread(server.cut) >= 1
        (work / f"go{i}").touch()
    async with asyncio.timeout(50):
        code, stdout, stderr = await running
    assert (code, stderr) == (42, b"e1\ne2\ne3\n")
    assert stdout == b"part 1\npart 2\npart 3\n" + bytes(300_000)
    assert (work / "count").read_text() == "ran\n"
    await commands.close()
    await backend.stop(data)


async def test_40_commands_at_once(backend: SSHBackend, server: SSHServer) -> None:
    """40 re-attachable commands at once on a server that takes 10 sessions all come to their end."""
    data = await spawn(backend, server)
    commands = Commands(backend)
    wanted = [
        commands.run(data["machine"], data, f"p_1.1.{n}", Exec(f"sleep 0.2; echo {n}; exit {n}")) for n in range(40)
    ]
    async with asyncio.timeout(50):
        done = await asyncio.gather(*wanted)
    assert [(one.exit_code, one.stdout) for one in done] == [(n, b"%d\n" % n) for n in range(40)]
    await commands.close()
    await backend.stop(data)
