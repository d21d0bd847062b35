"""Machines on a host that is reached over SSH: what a backend must do, against a real sshd."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from regrow_machine_manager.backend import Data, MachineFailed, MachineLost, Node
from regrow_machine_manager.backends.ssh import SSHBackend
from regrow_machine_manager.paths import OutsideRoot
from regrow_protocol.ids import new_id
from ssh_server import Login, SSHServer, make_login, until


@pytest.fixture(scope="module")
def login() -> Iterator[Login]:
    with make_login() as made:
        yield made


@pytest.fixture(scope="module")
def server(login: Login) -> Iterator[SSHServer]:
    with SSHServer(login) as made:
        yield made


@pytest_asyncio.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SSHBackend]:
    made = SSHBackend(Node("here", tmp_path))
    await made.open()
    yield made
    await made.close()


@pytest_asyncio.fixture
async def machine(backend: SSHBackend, server: SSHServer) -> AsyncIterator[Data]:
    data = (await backend.spawn(new_id("m"), server.image(env={"COLOUR": "red"}), load={})).data
    yield data
    await backend.stop(data)


async def out(backend: SSHBackend, data: Data, script: str, *, user: str = "agent") -> str:
    done = await backend.exec(data, ["sh", "-c", script], user=user)
    assert done.exit_code == 0, done
    return done.stdout.decode().strip()


async def test_exec_is_binary_safe_and_keeps_outputs_apart(backend: SSHBackend, machine: Data) -> None:
    """Bytes come out as they went in, stdout and stderr apart, with the program's exit code."""
    stdin = bytes(range(256)) * 4096
    done = await backend.exec(machine, ["sh", "-c", "cat; printf 'a\\000b' >&2; exit 7"], stdin=stdin)
    assert (done.exit_code, done.stdout, done.stderr) == (7, stdin, b"a\0b")


async def test_arguments_are_not_for_a_shell(backend: SSHBackend, machine: Data) -> None:
    """Each argument arrives as it was given."""
    odd = ["$HOME", "a b", "'", '"', "\n", "*", "; exit 3", "-x", "", "é", "\\"]
    done = await backend.exec(machine, ["printf", "%s|", *odd])
    assert done.stdout.decode() == "".join(f"{argument}|" for argument in odd)


async def test_ends_of_programs(backend: SSHBackend, machine: Data) -> None:
    """A program that does not read its input, one that is killed and one that is not there are told as a shell does."""
    assert (await backend.exec(machine, ["true"], stdin=b"x" * 5_000_000)).exit_code == 0
    assert (await backend.exec(machine, ["cat"])).stdout == b""
    assert (await backend.exec(machine, ["sh", "-c", "kill -9 $$"])).exit_code == 137
    assert (await backend.exec(machine, ["no-such-program"])).exit_code == 127
    with pytest.raises(MachineFailed, match="cannot be sent"):
        await backend.exec(machine, ["echo", "x" * 200_000])


async def test_spawn_is_idempotent(backend: SSHBackend, server: SSHServer, machine: Data) -> None:
    """Made again, it is the same machine, with what is in it."""
    await backend.write(machine, f"{machine['workdir']}/kept", b"1")
    again = await backend.spawn(machine["machine"], server.image(env={"COLOUR": "red"}), load={})
    assert again.data == machine
    assert await backend.read(again.data, f"{machine['workdir']}/kept") == b"1"
    assert backend.env(again.data) == {"COLOUR": "red"}


async def test_files(backend: SSHBackend, machine: Data) -> None:
    """10 MB of bytes are written with the folders above, read whole and in parts; modes are set and kept."""
    content = os.urandom(10_000_000)
    path = f"{machine['workdir']}/a/b c/file.bin"
    await backend.write(machine, path, content, mode=0o750)
    assert await backend.read(machine, path) == content
    assert await backend.read(machine, path, offset=9_999_990, limit=100) == content[-10:]
    assert await backend.read(machine, path, offset=5, limit=7) == content[5:12]
    assert await backend.read(machine, path, offset=20_000_000) == b""
    await backend.write(machine, path, b"short")
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o750
    assert await backend.read(machine, path) == b"short"
    assert [p.name for p in Path(path).parent.iterdir()] == ["file.bin"]  # nothing of the writing is left


async def test_files_that_cannot_be(backend: SSHBackend, machine: Data) -> None:
    """What the machine says of a file is told as Python does."""
    work = machine["workdir"]
    with pytest.raises(FileNotFoundError):
        await backend.read(machine, f"{work}/none/at/all")
    await out(backend, machine, "mkdir folder; mkfifo pipe; echo x > closed; chmod 0 closed")
    for path in (f"{work}/folder", work):
        with pytest.raises(IsADirectoryError):
            await backend.read(machine, path)
        with pytest.raises(IsADirectoryError):
            await backend.write(machine, path, b"")
    with pytest.raises(PermissionError):
        await backend.read(machine, f"{work}/closed")
    async with asyncio.timeout(30):
        with pytest.raises(PermissionError, match="no ordinary file"):
            await backend.read(machine, f"{work}/pipe")
    with pytest.raises((MachineFailed, FileNotFoundError, PermissionError)):
        await backend.write(machine, f"{work}/closed/below", b"")


@pytest.mark.parametrize("path", ["link/secret", "link", "file", "dangling", "deep/up/x", "link/new/x"])
async def test_links_do_not_lead_out(backend: SSHBackend, server: SSHServer, machine: Data, path: str) -> None:
    """A link out of the machine's folder is followed neither to read nor to write."""
    home = server.login.home
    await out(
        backend,
        machine,
        f"echo s > {home}/secret; ln -s {home} link; ln -s {home}/secret file; ln -s {home}/nothing dangling; "
        "mkdir deep; ln -s ../../.. deep/up",
    )
    with pytest.raises(OutsideRoot):
        await backend.write(machine, f"{machine['workdir']}/{path}", b"gotcha")
    with pytest.raises((OutsideRoot, FileNotFoundError)) as caught:
        await backend.read(machine, f"{machine['workdir']}/{path}")
    if path in ("link/secret", "link", "file"):
        assert caught.type is OutsideRoot
    assert (home / "secret").read_text() == "s\n"
    assert not (home / "nothing").exists()
    assert not (home / "new").exists()


async def test_links_within(backend: SSHBackend, machine: Data) -> None:
    """A link that stays inside is followed."""
    await out(backend, machine, "mkdir real; ln -s real link; echo 1 > real/file; ln -s real/file alias")
    await backend.write(machine, f"{machine['workdir']}/link/new", b"2")
    await backend.write(machine, f"{machine['workdir']}/alias", b"3")
    assert await out(backend, machine, "cat real/new real/file; readlink alias") == "23real/file"


async def test_stop_ends_all_that_runs(backend: SSHBackend, server: SSHServer) -> None:
    """What a machine started in sessions of its own, that ignores TERM, or is stopped, ends with it; others do not."""
    one = (await backend.spawn("m_one", server.image(), load={})).data
    other = (await backend.spawn("m_one2", server.image(), load={})).data
    for data in (one, other):
        await out(backend, data, "setsid sleep 300 </dev/null >/dev/null 2>&1 &")
    await out(backend, one, "(trap '' TERM; exec setsid sleep 301) </dev/null >/dev/null 2>&1 &")
    stopped = await out(backend, one, "setsid sleep 302 </dev/null >/dev/null 2>&1 & echo $!")
    await out(backend, one, "mkdir -p locked/in; chmod 0 locked")

    def sleeping() -> list[str]:
        found = subprocess.run(["ps", "-eo", "user:32,args"], capture_output=True, text=True, check=True).stdout
        return [line for line in found.splitlines() if line.split()[:2] == [server.login.name, "sleep"]]

    until(lambda: len(sleeping()) == 4, f"four sleeps, not {sleeping()}")
    await out(backend, one, f"kill -STOP {stopped}")
    await backend.stop(one)
    until(lambda: [line.split()[2] for line in sleeping()] == ["300"], "the end of what it started")
    assert not Path(one["folder"]).exists()
    await backend.stop(one)
    await backend.stop(other)
    until(lambda: sleeping() == [], "the end of all")


async def test_a_machine_that_is_gone(backend: SSHBackend, machine: Data) -> None:
    """Nothing is done on a machine whose folder is not there any more, and nothing is made again by it."""
    assert await backend.attach(machine)
    await backend.stop(machine)
    assert not await backend.attach(machine)
    with pytest.raises(MachineLost):
        await backend.exec(machine, ["true"])
    with pytest.raises(MachineLost):
        await backend.write(machine, f"{machine['workdir']}/x", b"")
    with pytest.raises(MachineLost):
        await backend.read(machine, f"{machine['workdir']}/x")
    assert not Path(machine["folder"]).exists()


async def test_a_workdir_of_the_image_is_kept(backend: SSHBackend, server: SSHServer) -> None:
    """The image's workdir is made, relative to the home when it is not absolute, and stays when the machine stops."""
    data = (await backend.spawn("m_kept", server.image(workdir="~/project dir"), load={})).data
    assert data["workdir"] == f"{server.login.home}/project dir"
    assert not backend.state(data).startswith(data["workdir"])
    assert await out(backend, data, "pwd") == data["workdir"]
    await backend.write(data, f"{data['workdir']}/x", b"1")
    await backend.stop(data)
    assert (server.login.home / "project dir" / "x").read_bytes() == b"1"
    assert not Path(data["folder"]).exists()


async def test_snapshot_restore_fork_drop(backend: SSHBackend, server: SSHServer, machine: Data) -> None:
    """A snapshot keeps the files of its moment; restored and forked machines have folders of their own."""
    await out(backend, machine, "echo 1 > n; chmod 600 n; ln -s n link; mkdir -p a/b; echo x > .hidden")
    kept = await backend.snapshot(machine, "s_1")
    await out(backend, machine, "echo 2 > n")
    assert await backend.snapshot(machine, "s_1") == kept
    restored = (await backend.restore("m_restored", server.image(), kept, load={})).data
    forks = [made.data for made in await backend.fork(machine, ["m_fork1", "m_fork2"], server.image())]
    assert await out(backend, restored, "cat link .hidden; stat -c %a n; ls -d a/b") == "1\nx\n600\na/b"
    assert [await out(backend, fork, "cat n") for fork in forks] == ["2", "2"]
    await out(backend, restored, "echo 3 > n")
    again = (await backend.restore("m_restored", server.image(), kept, load={})).data
    assert await out(backend, again, "cat n") == "3"  # made once
    await backend.drop(kept)
    await backend.drop(kept)
    assert not Path(kept["folder"]).exists()
    with pytest.raises(MachineFailed, match="no snapshot"):
        await backend.restore("m_late", server.image(), kept, load={})
    for data in (restored, *forks):
        await backend.stop(data)


async def test_a_snapshot_does_not_swallow_itself(backend: SSHBackend, server: SSHServer) -> None:
    """A workdir that holds the machines' folder is refused a snapshot, rather than copied into itself."""
    data = (await backend.spawn("m_home", server.image(workdir="~"), load={})).data
    with pytest.raises(MachineFailed, match="itself"):
        await backend.snapshot(data, "s_home")
    await backend.stop(data)


async def test_made_knows_what_was_begun(backend: SSHBackend, server: SSHServer, machine: Data) -> None:
    """Machines of this node are listed until they stop, also one whose creation was cut off."""
    assert await backend.made() == {machine["machine"]: machine}
    begun = {"machine": "m_begun", "address": machine["address"]}
    backend._note("m_begun", begun)
    await out(backend, machine, "mkdir -p ~/.regrow/machines/m_begun/state")
    assert (await backend.made())["m_begun"] == begun
    await backend.stop(begun)
    assert not (server.login.home / ".regrow/machines/m_begun").exists()
    assert list(await backend.made()) == [machine["machine"]]


async def test_a_shell_is_opened_by_ssh(backend: SSHBackend, machine: Data) -> None:
    """The program that `shell` names opens a shell in the workdir."""
    argv = backend.shell(machine)
    assert argv[:2] == ["ssh", "-t"]
    program = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    stdout, stderr = await program.communicate(b"pwd; exit 9\n")
    assert (program.returncode, stdout.decode().split()[-1:]) == (9, [machine["workdir"]]), stderr


async def test_expose_is_the_host_itself(backend: SSHBackend, machine: Data) -> None:
    """A port is reached on the host's address."""
    port = await backend.expose(machine, 8080)
    assert (port.host, port.port) == ("127.0.0.1", 8080)
