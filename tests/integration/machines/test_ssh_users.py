"""Other users on a host that is reached over SSH, by sudo."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from regrow_machine_manager.backend import Data, MachineFailed, MachineLost, Node
from regrow_machine_manager.backends.ssh import SSHBackend
from regrow_machine_manager.paths import OutsideRoot
from regrow_protocol.ids import new_id
from ssh_server import Login, SSHServer, make_login, running, until


@pytest.fixture(scope="module")
def login() -> Iterator[Login]:
    """A login that may become others without a password."""
    if os.geteuid() != 0 or not shutil.which("sudo"):
        pytest.skip("no sudo, or not root: a sudoers rule is needed")
    with make_login() as made:
        rule = Path("/etc/sudoers.d") / f"regrow-test-{made.name}"
        try:
            rule.write_text(f"{made.name} ALL=(ALL) NOPASSWD: ALL\n")
            rule.chmod(0o440)
            yield made
        finally:
            rule.unlink()


@pytest.fixture(scope="module")
def other(login: Login) -> Iterator[str]:
    """A third user."""
    name = f"rg{secrets.token_hex(4)}"
    subprocess.run(["useradd", "--no-create-home", "-d", "/nonexistent", name], check=True)
    yield name
    subprocess.run(["userdel", "-f", name], check=False, capture_output=True)


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
    data = (await backend.spawn(new_id("m"), server.image(), load={})).data
    yield data
    await backend.stop(data)
    assert not Path(data["folder"]).exists()


async def test_programs_of_others(backend: SSHBackend, machine: Data, login: Login, other: str) -> None:
    """Programs run as root, as another and as the login, with bytes and exit code whole, and the machine's mark."""
    stdin = bytes(range(256)) * 100
    for user, expected in (("agent", login.name), (login.name, login.name), ("root", "root"), (other, other)):
        script = 'cat; id -un >&2; echo "$REGROW_MACHINE|$1" >&2; exit 5'
        done = await backend.exec(machine, ["sh", "-c", script, "sh", "a $b"], user=user, stdin=stdin)
        assert (done.exit_code, done.stdout) == (5, stdin)
        assert done.stderr.decode().split("\n")[:2] == [expected, f"{machine['machine']}|a $b"]


async def test_files_of_others(backend: SSHBackend, machine: Data) -> None:
    """Root's files are written and read as root, with the same rules."""
    work = machine["workdir"]
    content = os.urandom(1_000_000)
    await backend.write(machine, f"{work}/a/b/closed", content, mode=0o600, user="root")
    with pytest.raises(PermissionError):
        await backend.read(machine, f"{work}/a/b/closed")
    assert await backend.read(machine, f"{work}/a/b/closed", user="root") == content
    assert await backend.read(machine, f"{work}/a/b/closed", user="root", offset=7, limit=9) == content[7:16]
    assert (Path(work) / "a/b/closed").stat().st_uid == 0
    with pytest.raises(FileNotFoundError):
        await backend.read(machine, f"{work}/none", user="root")
    with pytest.raises(IsADirectoryError):
        await backend.read(machine, f"{work}/a", user="root")
    (Path(work) / "link").symlink_to("/etc")
    for path in ("link/passwd", "link/new-of-the-tests", "link/new-of-the-tests/x"):
        with pytest.raises(OutsideRoot):
            await backend.write(machine, f"{work}/{path}", b"", user="root")
    with pytest.raises(OutsideRoot):
        await backend.read(machine, f"{work}/link/passwd", user="root")
    assert not Path("/etc/new-of-the-tests").exists()


async def test_what_others_made_is_copied_and_removed(backend: SSHBackend, server: SSHServer, login: Login) -> None:
    """Root's files come along with snapshots and forks, as root's, and go with the machine, as its programs do."""
    data = (await backend.spawn(new_id("m"), server.image(), load={})).data
    await backend.write(data, f"{data['workdir']}/closed", b"1", mode=0o600, user="root")
    done = await backend.exec(data, ["sh", "-c", "setsid sleep 303 </dev/null >/dev/null 2>&1 & echo $!"], user="root")
    pid = int(done.stdout)
    kept = await backend.snapshot(data, new_id("s"))
    restored = (await backend.restore(new_id("m"), server.image(), kept, load={})).data
    (fork,) = [made.data for made in await backend.fork(data, [new_id("m")], server.image())]
    for copy in (restored, fork):
        assert copy["login"] == login.name
        assert await backend.read(copy, f"{copy['workdir']}/closed", user="root") == b"1"
        await backend.write(copy, f"{copy['workdir']}/mine", b"2")
        assert (Path(copy["workdir"]) / "closed").stat().st_uid == 0
    await backend.drop(kept)
    assert not Path(kept["folder"]).exists()
    assert pid in [process.pid for process in running(0)]
    for made in (data, restored, fork):
        await backend.stop(made)
        assert not Path(made["folder"]).exists()
    until(lambda: pid not in [process.pid for process in running(0)], "its end")
    with pytest.raises(MachineLost):
        await backend.exec(data, ["true"], user="root")


async def test_who_may_not(backend: SSHBackend, server: SSHServer, machine: Data, other: str) -> None:
    """A user that the login may not become is refused with the rule that is missing; and no option is a user."""
    rule = next(Path("/etc/sudoers.d").glob(f"regrow-test-{server.login.name}"))
    text = rule.read_text()
    try:
        rule.write_text("")
        with pytest.raises(MachineFailed, match="NOPASSWD"):
            await backend.exec(machine, ["true"], user=other)
    finally:
        rule.write_text(text)
    for user in ("-i", "a b", "", "root\n"):
        with pytest.raises(MachineFailed):
            await backend.exec(machine, ["true"], user=user)
