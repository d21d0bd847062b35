"""Commands that survive their caller, on Docker machines."""

from __future__ import annotations

import asyncio
import hashlib
import sys

import pytest
import pytest_asyncio
from docker_engine import IMAGE, docker_backend, docker_client, docker_engine  # noqa: F401 - fixtures
from regrow_machine_manager.backend import Data
from regrow_machine_manager.backends.docker import DockerBackend
from regrow_machine_manager.commands import Commands
from regrow_protocol.ids import new_id
from regrow_protocol.images import DockerImage
from regrow_protocol.machines import Exec

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]


@pytest_asyncio.fixture
async def machine(docker_backend: DockerBackend) -> Data:  # noqa: F811
    image = DockerImage(IMAGE, pull="never", env={"A": "of the image"})
    return (await docker_backend.spawn(new_id("m"), image, load={})).data


async def test_a_command_survives_its_caller(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    """Killed with SIGKILL while it runs, the caller's successor gets the whole output and the exit code of one run."""
    node = docker_backend.node
    script = 'echo run >>/workspace/runs; echo "$A"; until [ -e /workspace/go ]; do sleep 0.05; done; echo end; exit 5'
    program = f"""
import asyncio, pathlib
from regrow_machine_manager.backend import Node
from regrow_machine_manager.backends.docker import DockerBackend
from regrow_machine_manager.commands import Commands
from regrow_protocol.machines import Exec
async def main():
    backend = DockerBackend(Node({node.name!r}, pathlib.Path({str(node.folder)!r})))
    await backend.open()
    await Commands(backend).run("m", {machine!r}, "p.1.1", Exec({script!r}))
asyncio.run(main())
"""
    caller = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    await docker_backend.exec(machine, ["sh", "-c", "until [ -s /workspace/runs ]; do sleep 0.02; done"])
    caller.kill()
    await caller.wait()
    commands = Commands(docker_backend)
    again = [asyncio.create_task(commands.run("m", machine, "p.1.1", Exec(script))) for _ in range(2)]
    await docker_backend.write(machine, "/workspace/go", b"")
    for done in await asyncio.gather(*again):
        assert (done.exit_code, done.stdout) == (5, b"of the image\nend\n")
    assert await docker_backend.read(machine, "/workspace/runs") == b"run\n"
    await commands.close()


async def test_ten_at_a_time_of_two_users_with_binary_output(
    docker_backend: DockerBackend,  # noqa: F811
    machine: Data,
) -> None:
    commands = Commands(docker_backend)
    content = bytes(range(256)) * 2000

    async def one(n: int) -> None:
        user = ("agent", "root")[n % 2]
        exec = Exec("cat; id -u >&2; exit $N", stdin=content + bytes([n]), user=user, env={"N": str(n)})  # noqa: A001
        done = await commands.run("m", machine, f"p.1.{n}", exec)
        assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(content + bytes([n])).digest()
        assert (done.exit_code, done.stderr) == (n, (b"1000\n", b"0\n")[n % 2])

    await asyncio.gather(*(one(n) for n in range(10)))
    await commands.close()


async def test_a_timeout_ends_the_whole_group(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    commands = Commands(docker_backend)
    done = await commands.run("m", machine, "p.1.1", Exec("sleep 1111 & sleep 1111 | sleep 1111", timeout=0.5))
    assert done.timed_out
    left = await docker_backend.exec(machine, ["sh", "-c", "ps | grep '[s]leep 1111'"])
    assert left.stdout == b""
    await commands.close()


async def test_a_snapshot_while_commands_run(docker_backend: DockerBackend, machine: Data) -> None:  # noqa: F811
    """They go on after it; a machine made from it knows none of them."""
    commands = Commands(docker_backend)
    script = "for n in $(seq 40); do echo $n; sleep 0.02; done"
    running = [asyncio.create_task(commands.run("m", machine, f"p.1.{n}", Exec(script))) for n in range(5)]
    kept = await docker_backend.snapshot(machine, new_id("s"))
    for done in await asyncio.gather(*running):
        assert done.stdout.split() == [b"%d" % n for n in range(1, 41)]
    other = (await docker_backend.restore(new_id("m"), DockerImage(IMAGE), kept, load={})).data
    done = await commands.run("m2", other, "p.1.0", Exec("echo anew"))
    assert done.stdout == b"anew\n"
    await docker_backend.drop(kept)
    await commands.close()
