"""Machines that are folders of this node."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import stat
import subprocess
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from machine_waiting import until
from regrow_machine_manager.backend import Data, MachineFailed, MachineLost, Node
from regrow_machine_manager.backends.local import LocalBackend
from regrow_machine_manager.commands import Commands
from regrow_machine_manager.folders import Folders
from regrow_machine_manager.paths import OutsideRoot, inside
from regrow_protocol.ids import new_id
from regrow_protocol.images import Limits, LocalImage
from regrow_protocol.machines import Exec

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become other users")


@pytest.fixture
def open_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose folder every user can get to."""
    folder = Path("/var/tmp") / new_id("regrow-test")
    folder.mkdir(mode=0o755)
    yield Node("here", folder)
    shutil.rmtree(folder)


def at(backend: LocalBackend, data: Data, path: str) -> str:
    return inside(backend.root(data), backend.workdir(data), path)


def runs(process: psutil.Process) -> bool:
    """Whether a process has not ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_spawn_is_the_same_machine_again(local: LocalBackend) -> None:
    """The same id gives the same machine, and what is on it stays."""
    first = await local.spawn("m_1", LocalImage(), load={})
    await local.write(first.data, at(local, first.data, "kept"), b"x")
    assert await local.spawn("m_1", LocalImage(env={"other": "1"}), load={}) == first
    assert await local.read(first.data, at(local, first.data, "kept")) == b"x"
    assert await local.made() == {"m_1": first.data}
    assert await local.attach(first.data)


async def test_half_made_machines_are_not_there(local: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spawn that dies before the machine is whole leaves nothing that counts as one, and can be repeated."""
    rename = Path.rename

    def die(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt if self.name.startswith(".making") else AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            local._make("m_1", LocalImage(), None)
    assert Path.rename is rename
    assert await local.made() == {}
    await local.spawn("m_1", LocalImage(), load={})
    assert list(await local.made()) == ["m_1"]


async def test_managers_that_make_the_same_make_it_once(local: LocalBackend) -> None:
    """A manager that was taken for dead and its heirs make one machine and one snapshot, and all are told of it."""
    for round_ in range(10):
        made = await asyncio.gather(*[local.spawn(f"m_{round_}", LocalImage(), load={}) for _ in range(8)])
        assert made == [made[0]] * 8
        data = made[0].data
        await local.write(data, at(local, data, "f"), b"x")
        kept = await asyncio.gather(*[local.snapshot(data, f"s_{round_}") for _ in range(8)])
        assert kept == [kept[0]] * 8
        assert [p.name for p in Path(kept[0]["folder"]).iterdir()] == ["f"]
    names = sorted(p.name for p in (local.node.folder / "machines").iterdir())
    assert names == sorted(f"m_{round_}" for round_ in range(10)), "nothing half made is left"


async def test_a_given_folder_is_kept_and_not_littered(local: LocalBackend, tmp_path: Path) -> None:
    """A machine that works in a user's folder leaves nothing of its own there, and leaves the folder at its stop."""
    work = tmp_path / "mine"
    work.mkdir()
    data = (await local.spawn("m_1", LocalImage(workdir=str(work)), load={})).data
    commands = Commands(local)
    done = await commands.run("m_1", data, "p.1", Exec("pwd; echo made >made"))
    await commands.close()
    assert done.stdout.decode() == f"{work}\n"
    await local.stop(data)
    assert [p.name for p in work.iterdir()] == ["made"]
    with pytest.raises(MachineFailed, match="no folder"):
        await local.spawn("m_2", LocalImage(workdir="/no/such"), load={})


async def test_files_are_written_whole_and_read_in_pieces(local: LocalBackend, machine: Data) -> None:
    """Folders above are made, modes are kept or set, names may be odd, and nothing half written is seen."""
    for name in ("a/b/c", "-rf", "--help", "ü n\ni", "*"):
        await local.write(machine, at(local, machine, name), b"0123456789", mode=0o640)
        path = at(local, machine, name)
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o640
        assert await local.read(machine, path, offset=2, limit=3) == b"234"
        await local.write(machine, path, b"new")
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o640
        assert await local.read(machine, path) == b"new"
    with pytest.raises(FileNotFoundError):
        await local.read(machine, at(local, machine, "nope"))
    with pytest.raises(IsADirectoryError):
        await local.read(machine, at(local, machine, "a"))
    with pytest.raises(IsADirectoryError):
        await local.write(machine, at(local, machine, "a"), b"")
    with pytest.raises(NotADirectoryError):
        await local.write(machine, at(local, machine, "-rf/x"), b"")
    left = [p.name for p in Path(local.workdir(machine)).rglob("*") if p.name.startswith(".regrow")]
    assert left == []


async def test_links_do_not_lead_out(local: LocalBackend, machine: Data, tmp_path: Path) -> None:
    """Neither a link on the way nor one at the end, relative or absolute, reads or writes outside the root."""
    work, outside = Path(local.workdir(machine)), tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (work / "abs").symlink_to(outside)
    (work / "file").symlink_to(outside / "secret")
    (work / "up").symlink_to("../" * 20 + str(outside)[1:])
    (work / "new").symlink_to(outside / "new")
    (work / "twice").symlink_to("abs")
    for name in ("abs/secret", "file", "up/secret", "twice/secret"):
        with pytest.raises(OutsideRoot):
            await local.read(machine, at(local, machine, name))
    for name in ("abs/new", "abs/a/b", "file", "up/new", "new", "twice/new"):
        with pytest.raises(OutsideRoot):
            await local.write(machine, at(local, machine, name), b"x")
    assert [p.name for p in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    (work / "inner").mkdir()
    (work / "fine").symlink_to("inner")
    await local.write(machine, at(local, machine, "fine/x"), b"in")
    assert (work / "inner" / "x").read_bytes() == b"in"
    (work / "to").symlink_to(work / "inner" / "x")
    await local.write(machine, at(local, machine, "to"), b"through")
    assert (work / "inner" / "x").read_bytes() == b"through"
    for path in ("../x", "/etc/passwd", "a/../../x", "", "a\0b"):
        with pytest.raises(OutsideRoot):
            at(local, machine, path)


async def test_a_file_that_never_ends_is_not_read(local: LocalBackend, machine: Data) -> None:
    """A FIFO blocks nobody."""
    os.mkfifo(Path(local.workdir(machine)) / "fifo")
    with pytest.raises(MachineFailed, match="regular"):
        await asyncio.wait_for(local.read(machine, at(local, machine, "fifo")), 30)


async def test_stop_ends_all_and_removes_all(local: LocalBackend, machine: Data, commands: Commands) -> None:
    """Running commands and what left its session end, the folder goes whatever its modes, and again is fine."""
    work = Path(local.workdir(machine))
    script = "setsid sh -c 'echo $$ >away; exec sleep 600' & mkdir -p ro/x; touch ro/x/y; chmod 500 ro/x ro; sleep 600"
    running = asyncio.create_task(commands.run(machine["machine"], machine, "p.1", Exec(script)))
    await until(
        lambda: (work / "away").exists() and (work / "away").read_text() and (work / "ro/x/y").exists(), "start"
    )
    away = psutil.Process(int((work / "away").read_text()))
    await local.stop(machine)
    await until(lambda: not runs(away), "its end, of which its folders and variables go first")
    assert list((local.node.folder / "machines").iterdir()) == []
    await asyncio.gather(running, return_exceptions=True)
    await local.stop(machine)
    assert not await local.attach(machine)
    with pytest.raises(MachineLost):
        await commands.run(machine["machine"], machine, "p.2", Exec("true"))


async def test_stop_ends_what_has_dropped_its_variables(
    local: LocalBackend, machine: Data, commands: Commands, tmp_path: Path
) -> None:
    """A process without any mark ends with the machine in whose folder it works; one beside the folder does not."""
    work = Path(local.workdir(machine))
    script = "mkdir d; cd d; env -i /usr/bin/setsid /bin/sh -c 'echo $$ >../away; exec /bin/sleep 600' >&- 2>&- &"
    await commands.run(machine["machine"], machine, "p.1", Exec(script))
    await until(lambda: (work / "away").exists() and (work / "away").read_text(), "start")
    away = psutil.Process(int((work / "away").read_text()))
    beside = Path(f"{machine['home']}-x")
    beside.mkdir()
    stranger = subprocess.Popen(["/bin/sleep", "600"], cwd=beside)
    try:
        await local.stop(machine)
        await until(lambda: not runs(away), "its end, of which its folders and variables go first")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
        with suppress(psutil.NoSuchProcess):
            away.kill()


def test_a_command_that_outlives_its_loop_is_reaped(tmp_path: Path) -> None:
    """A manager that ends leaves commands running: nothing complains of them, and the next loop reaps them."""
    backend = LocalBackend(Node("here", tmp_path / "node"))

    async def leave() -> tuple[Data, int]:
        data = (await backend.spawn("m_1", LocalImage(), load={})).data
        pid = Path(backend.workdir(data)) / "pid"
        running = asyncio.create_task(backend.exec(data, ["sh", "-c", "echo $$ >pid; exec sleep 600"]))
        await until(lambda: pid.exists() and pid.read_text(), "start")
        running.cancel()
        await asyncio.wait([running])
        return data, int(pid.read_text())

    async def come_back(data: Data, pid: int) -> None:
        assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        await backend.stop(data)
        await until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, "its end")
        again = (await backend.spawn("m_2", LocalImage(), load={})).data
        await backend.exec(again, ["true"])
        assert not psutil.pid_exists(pid)
        await backend.stop(again)

    asyncio.run(come_back(*asyncio.run(leave())))  # what this process opens once is open now
    before = len(list(Path("/proc/self/fd").iterdir()))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        left = asyncio.run(leave())
        gc.collect()
    assert [str(warning.message) for warning in said] == []
    asyncio.run(come_back(*left))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


async def test_snapshot_restore_fork_and_drop(local: LocalBackend, machine: Data, commands: Commands) -> None:
    """A snapshot keeps what was there, whatever comes after; machines made from it go their own way."""
    script = "mkdir d; echo 1 >d/f; chmod 751 d; ln -s d/f l; touch -d @1000000000 d/f"
    await commands.run(machine["machine"], machine, "p.1", Exec(script))
    kept = await local.snapshot(machine, "s_1")
    assert await local.snapshot(machine, "s_1") == kept
    await local.write(machine, at(local, machine, "d/f"), b"2\n")
    back = (await local.restore("m_back", LocalImage(env={"A": "b"}), kept, load={})).data
    assert (Path(local.workdir(back)) / "l").read_text() == "1\n"
    assert (Path(local.workdir(back)) / "d").stat().st_mode & 0o777 == 0o751
    assert (Path(local.workdir(back)) / "d/f").stat().st_mtime == 1000000000
    again = await commands.run("m_back", back, "p.1", Exec("echo $A"))
    assert again.stdout == b"b\n", "commands of the old machine are not the new one's"
    forks = await local.fork(machine, ["m_f1", "m_f2"], LocalImage())
    assert [(Path(local.workdir(f.data)) / "l").read_text() for f in forks] == ["2\n", "2\n"]
    await local.write(forks[0].data, at(local, forks[0].data, "d/f"), b"3")
    assert await local.read(forks[1].data, at(local, forks[1].data, "d/f")) == b"2\n"
    await local.stop(machine)
    await local.drop(kept)
    await local.drop(kept)
    with pytest.raises(MachineFailed, match="nothing to copy"):
        await local.restore("m_late", LocalImage(), kept, load={})
    assert "m_late" not in await local.made()
    with pytest.raises(MachineLost):
        await local.fork(machine, ["m_f3"], LocalImage())


async def test_limits_hold_for_commands(local: LocalBackend, commands: Commands) -> None:
    """Each limit of the image is a command's, and not its keeper's: output goes beyond the limit of files."""
    limits = Limits(cpu=1, memory="512m", file=2000, files=20, processes=500)
    data = (await local.spawn("m_1", LocalImage(limits=limits), load={})).data
    done = await commands.run(
        "m_1", data, "p.1", Exec("ulimit -t; ulimit -v; ulimit -n; ulimit -p; head -c 9999 /dev/zero")
    )
    assert done.stdout == b"1\n524288\n20\n500\n" + bytes(9999)
    assert (await commands.run("m_1", data, "p.2", Exec("head -c 9999 /dev/zero >f"))).exit_code == 153
    assert (await commands.run("m_1", data, "p.3", Exec("while :; do :; done"))).exit_code in {137, 152}


@as_root
async def test_commands_run_as_the_images_user(open_node: Node) -> None:
    """`agent` is the image's user, `root` the manager, others by name; each owns what it makes, all can be killed."""
    backend = LocalBackend(open_node)
    data = (await backend.spawn("m_1", LocalImage(user="nobody"), load={})).data
    commands = Commands(backend)
    try:
        for user, expected in (("agent", "nobody"), ("root", "root"), ("daemon", "daemon"), ("nobody", "nobody")):
            exec_ = Exec('id -un; [ "$N" = root ] || echo $USER; cat', user=user, stdin=b"in", env={"N": user})
            done = await commands.run("m_1", data, f"p.{user}", exec_)
            assert done.stdout.split() == [expected.encode()] * (1 if user == "root" else 2) + [b"in"]
        await commands.run("m_1", data, "p.1", Exec("touch mine; mkdir d"))
        await backend.write(data, at(backend, data, "d/e/f"), b"x")
        for name in ("mine", "d", "d/e", "d/e/f"):
            assert (Path(backend.workdir(data)) / name).owner() == "nobody"
        running = asyncio.create_task(commands.run("m_1", data, "p.9", Exec("touch up; sleep 600", user="root")))
        await until((Path(backend.workdir(data)) / "up").exists, "its start")
        await commands.kill(data, "p.9")
        assert (await running).killed
        await commands.prune(data, 0)
        names = {p.suffix for p in (Path(backend.state(data)) / "commands").iterdir()}
        assert names == {".gone"}
        with pytest.raises(MachineFailed, match="no user"):
            await commands.run("m_1", data, "p.10", Exec("true", user="no-such-user"))
        with pytest.raises(MachineFailed, match="no user"):
            await backend.spawn("m_2", LocalImage(user="no-such-user"), load={})
    finally:
        await commands.close()
        for found in (await backend.made()).values():
            await backend.stop(found)


@as_root
async def test_a_user_who_cannot_reach_the_folder_is_told(tmp_path: Path) -> None:
    """A machine in a closed folder is refused for another user, with what to do about it."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "node").mkdir()
    backend = LocalBackend(Node("here", closed / "node"))
    with pytest.raises(MachineFailed, match="chmod o\\+x"):
        await backend.spawn("m_1", LocalImage(user="nobody"), load={})
    assert await backend.made() == {}


async def test_a_shell_is_on_the_machine(local: LocalBackend, machine: Data) -> None:
    """The shell starts in the machine's folder, with its variables, and ends with it."""
    argv = local.shell(machine)
    done = await asyncio.to_thread(
        subprocess.run,
        argv,
        input=b"pwd; echo $FROM_IMAGE $REGROW_MACHINE\n",
        capture_output=True,
        check=True,
        env={**os.environ, "SHELL": "/bin/sh"},
    )
    assert done.stdout.decode() == f"{local.workdir(machine)}\nyes {machine['machine']}\n"
    assert (await local.expose(machine, 8080)).port == 8080


async def test_folders_go_there_and_back(local: LocalBackend, machine: Data) -> None:
    """A folder with odd names, modes, links and 20 MB comes in several pieces and is the same elsewhere."""
    folders, work = Folders(local), Path(local.workdir(machine))
    source = work / "-C odd'name"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "-rf").write_text("x")
    (source / "sub" / "-rf").chmod(0o751)
    (source / "link").symlink_to("sub/-rf")
    (source / "big").write_bytes(os.urandom(20_000_000))
    parts = [part async for part in folders.pack(machine, "p.1", source.name, "agent")]
    assert [len(p) <= 8 * 1024 * 1024 for p in parts] == [True] * 3

    async def pieces() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    for _ in range(2):
        await folders.unpack(machine, "p.2", "new/-x y", pieces(), "agent")
    assert (work / "new/-x y/big").read_bytes() == (source / "big").read_bytes()
    assert (work / "new/-x y/link").read_text() == "x"
    assert (work / "new/-x y/sub/-rf").stat().st_mode & 0o777 == 0o751
    one = [part async for part in folders.pack(machine, "p.3", "new/-x y/sub/-rf", "agent")]
    assert len(one) == 1
    assert list((Path(local.state(machine)) / "folders").iterdir()) == []


async def test_folders_do_not_leave_the_root(local: LocalBackend, machine: Data, tmp_path: Path) -> None:
    """What is outside by its text or through a link is neither packed nor written to."""
    folders, work, outside = Folders(local), Path(local.workdir(machine)), tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (work / "out").symlink_to(outside)
    (work / "secret").symlink_to(outside / "secret")
    (work / "f").write_text("f")
    parts = [part async for part in folders.pack(machine, "p.0", "f", "agent")]

    async def pieces() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    for path, error in {"out": OutsideRoot, "out/secret": OutsideRoot, "../x": OutsideRoot, "/etc": OutsideRoot,
                        "secret": MachineFailed, "nope": FileNotFoundError}.items():  # fmt: skip
        with pytest.raises(error):
            _ = [part async for part in folders.pack(machine, "p.1", path, "agent")]
    for path, error in {
        "out": OutsideRoot,
        "out/a/b": OutsideRoot,
        "../x": OutsideRoot,
        "f/x": NotADirectoryError,
    }.items():
        with pytest.raises(error):
            await folders.unpack(machine, "p.2", path, pieces(), "agent")
    assert [p.name for p in outside.iterdir()] == ["secret"]
    parts = [b"no archive"]
    with pytest.raises(MachineFailed, match="unpacked"):
        await folders.unpack(machine, "p.3", "x", pieces(), "agent")


async def test_commands_see_no_secret_of_the_manager(
    local: LocalBackend, machine: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the manager has in its environment for itself stays there; where things are is handed on."""
    for name in ("REGROW_NATS_URL", "MORPH_API_KEY", "SSH_AUTH_SOCK", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret-1")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    seen = (await local.exec(machine, ["env"])).stdout.decode()
    assert "secret-1" not in seen
    assert "HTTPS_PROXY=http://proxy.example" in seen
    assert "\nPATH=" in f"\n{seen}"
