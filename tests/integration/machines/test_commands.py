"""Commands that survive their caller: both ways of starting them, under every POSIX shell that is here."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from command_caller import Detaching
from machine_waiting import until
from regrow_machine_manager.backend import Data, Node
from regrow_machine_manager.backends.local import LocalBackend
from regrow_machine_manager.commands import CommandLost, CommandRefused, Commands
from regrow_protocol.ids import new_id
from regrow_protocol.images import LocalImage
from regrow_protocol.machines import Exec, ExecDone

WAYS = ["dash-holds", "dash-detached", "busybox-holds", "busybox-detached", "bash-holds", "bash-detached"]


class Runner:
    """Runs commands on one machine."""

    def __init__(self, backend: LocalBackend, data: Data) -> None:
        self.backend = backend
        self.data = data
        self.work = Path(backend.workdir(data))
        self.files = Path(backend.state(data)) / "commands"
        self.commands = Commands(backend)

    async def __call__(self, command: str, *, id: str | None = None, **options: object) -> ExecDone:  # noqa: A002
        return await self.commands.run(
            self.data["machine"],
            self.data,
            new_id("p") if id is None else id,
            Exec(command, **options),  # pyright: ignore[reportArgumentType]
        )

    async def kill(self, id: str) -> None:  # noqa: A002
        await self.commands.kill(self.data, id)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which shell the wrapper runs under (`sh` is a link to it), and whether exec calls last as long as commands."""
    shell, _, how = request.param.partition("-")
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    shells = tmp_path / "shells"
    shells.mkdir()
    (shells / "sh").symlink_to(program)
    monkeypatch.setenv("PATH", f"{shells}:{os.environ['PATH']}")
    return how


@pytest_asyncio.fixture
async def run(way: str, tmp_path: Path) -> AsyncIterator[Runner]:
    backend = (LocalBackend if way == "holds" else Detaching)(Node("here", tmp_path / "node"))
    await backend.open()
    image = LocalImage(env={"FROM_IMAGE": "yes"})
    runner = Runner(backend, (await backend.spawn(new_id("m"), image, load={})).data)
    yield runner
    await runner.commands.close()
    await backend.stop(runner.data)
    await backend.close()


async def test_outputs_and_exit_code_are_the_commands_own(run: Runner) -> None:
    """Standard output and error are apart, binary ones too, and the exit code is the command's."""
    done = await run("printf 'a\\0\\377\\n'; printf 'b\\0\\200' >&2; exit 7")
    assert (done.exit_code, done.stdout, done.stderr) == (7, b"a\0\xff\n", b"b\0\x80")
    assert (done.left_out, done.timed_out, done.killed) == (0, False, False)


async def test_a_signal_is_told_as_a_shell_does(run: Runner) -> None:
    """A command that was killed by a signal has 128 + its number, and nothing is added to its error output."""
    done = await run("echo before; kill -9 $$")
    assert (done.exit_code, done.stdout, done.stderr) == (137, b"before\n", b"")
    assert (await run("kill -TERM $$")).exit_code == 143


async def test_a_command_that_kills_its_own_group_has_an_exit_code(run: Runner) -> None:
    """What a command does to its process group does not reach what keeps its result."""
    assert (await run("echo x; kill -9 0")).exit_code == 137
    assert (await run("trap '' TERM; kill 0; echo on; exit 3")).exit_code == 3


async def test_a_command_runs_once(run: Runner) -> None:
    """The same id, asked for 20 times at once and again later, has run once, and all get the same answer."""
    asked = [run("echo ran >> count; sleep 0.2; cat count; exit 3", id="p.1.1") for _ in range(20)]
    answers = await asyncio.gather(*asked)
    answers.append(await run("another text", id="p.1.1"))
    assert {(a.exit_code, a.stdout) for a in answers} == {(3, b"ran\n")}
    assert (run.work / "count").read_text() == "ran\n"


async def test_environment_input_and_folder_are_passed_as_they_are(run: Runner) -> None:
    """Odd values of variables, binary input and odd names of folders arrive unchanged; the image's variables too."""
    odd = "a'b\"c`d$(touch bad)\\ \n\t;&|*?[x] ünï =end "
    folder = run.work / "-rf; $(touch bad) 'x'"
    folder.mkdir()
    blob = bytes(range(256)) * 1000
    done = await run('printf %s "$ODD"; printf %s "$FROM_IMAGE"', env={"ODD": odd, "cmd": "1", "id": "2", "n": "3"})
    assert done.stdout == odd.encode() + b"yes"
    assert (await run("cat", stdin=blob)).stdout == blob
    assert (await run("pwd", cwd=folder.name)).stdout.decode() == f"{folder}\n"
    assert (await run("cat; echo end")).stdout == b"end\n"
    assert (await run("PATH=; echo $PATH", env={"PATH": "/nowhere", "IFS": "x"})).exit_code == 0
    assert sorted(p.name for p in run.work.iterdir()) == [folder.name]
    assert not list(run.files.glob("*.in.*")), "inputs are removed"


async def test_a_missing_folder_is_told(run: Runner) -> None:
    """A command whose folder is not there has exit code 126 and says so on its error output."""
    done = await run("true", cwd="nowhere")
    assert done.exit_code == 126
    assert b"nowhere" in done.stderr


async def test_signals_work_in_commands_as_usual(run: Runner) -> None:
    """No signal is ignored or blocked in a command that is not elsewhere."""
    done = await run("grep -E 'Sig(Ign|Blk)' /proc/self/status")
    here = re.findall(r"^Sig(?:Ign|Blk):\s+(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    # Python ignores PIPE (13) and XFSZ (25) for itself, and gives them back to what it starts.
    expected = [int(mask, 16) & ~(1 << 12) & ~(1 << 24) for mask in here]
    assert [int(line.split()[1], 16) for line in done.stdout.decode().splitlines()] == expected
    assert (await run("umask; ulimit -f")).stdout == b"0022\nunlimited\n"


async def test_no_descriptor_of_the_wrapper_is_open_in_a_command(run: Runner) -> None:
    """A command has its three, and the one that lists them."""
    assert (await run("exec ls /proc/self/fd")).stdout.split() == [b"0", b"1", b"2", b"3"]


async def test_outputs_are_cut_at_the_cap_and_counted(run: Runner) -> None:
    """What is beyond the cap is left out and counted, and its writer is not disturbed."""
    done = await run("head -c 3000000 /dev/zero; echo $? >&2; head -c 2000 /dev/zero >&2", max_output=1000)
    assert (len(done.stdout), len(done.stderr)) == (1000, 1000)
    assert (done.exit_code, done.left_out) == (0, 3000000 - 1000 + 2002 - 1000)
    exact = await run("head -c 1000 /dev/zero", max_output=1000)
    assert (len(exact.stdout), exact.left_out) == (1000, 0)


async def test_output_may_be_opened_again(run: Runner) -> None:
    """Opening /dev/stderr for writing does not cut what was written before."""
    assert (await run("echo a >&2; echo b >/dev/stderr; echo c >&2")).stderr == b"a\nb\nc\n"


async def test_children_that_hold_the_output_do_not_hold_the_result(run: Runner) -> None:
    """A server left in the background does not keep its command from ending, and what was written is there."""
    done = await run("sleep 600 & echo $!; echo e >&2")
    assert done.stderr == b"e\n"
    assert psutil.pid_exists(int(done.stdout)), "it goes on"


async def test_output_is_whole_though_its_keeper_is_late(run: Runner) -> None:
    """Who keeps a command's output may stand still for longer than it is waited for where others hold it open."""
    asked = asyncio.create_task(run("touch began; until [ -e go ]; do sleep 0.01; done; echo out; exit 3", id="p.0.1"))
    await until(lambda: (run.work / "began").exists() and len(_keepers(run)) == 2, "its start")
    keepers = _keepers(run)
    for keeper in keepers:
        keeper.suspend()
    (run.work / "go").touch()
    try:
        await asyncio.wait([asked], timeout=2.5)
        assert not asked.done()
    finally:
        for keeper in keepers:
            keeper.resume()
    done = await asked
    assert (done.exit_code, done.stdout) == (3, b"out\n")


async def test_a_command_is_killed_when_its_time_is_over(run: Runner) -> None:
    """TERM reaches the whole group, and a trap may end it in order; it is told that it was the time."""
    script = "trap 'echo bye; exit 9' TERM; echo hi; sleep 600 & echo $! >pid; wait"
    first = asyncio.create_task(run(script, id="p.1.1"))
    await until(lambda: (run.work / "pid").exists() and (run.work / "pid").read_text(), "its start")
    done = await run(script, id="p.1.1", timeout=0.2)  # of the same command, from its start
    assert (done.exit_code, done.stdout, done.timed_out, done.killed) == (9, b"hi\nbye\n", True, False)
    assert await first == done
    pid = int((run.work / "pid").read_text())
    await until(lambda: not _runs(pid), "the end of its child")
    assert 0.1 < done.duration < 60


async def test_kill_ends_all_of_a_command(run: Runner) -> None:
    """Children, and members of its session that moved to a group of their own, end with it."""
    running = asyncio.create_task(run("bash -mc 'sleep 600 & echo $!; wait' > moved & sleep 600", id="p.2.1"))
    await until(lambda: (run.work / "moved").exists() and (run.work / "moved").read_text(), "its start")
    await run.kill("p.2.1")
    done = await running
    assert (done.exit_code, done.killed, done.timed_out) == (143, True, False)
    await until(lambda: not _runs(int((run.work / "moved").read_text())), "the end of what moved")
    await run.kill("p.2.1")


async def test_kill_before_the_start_prevents_it(run: Runner) -> None:
    """A command that was killed before it was started never starts."""
    await run.kill("p.3.1")
    done = await run("touch ran", id="p.3.1")
    assert (done.exit_code, done.killed) == (143, True)
    assert not (run.work / "ran").exists()


async def test_a_stream_is_handed_on_in_order_while_it_runs(run: Runner) -> None:
    """Pieces come while the command runs, each at its offset, and again from the beginning for who attaches."""
    pieces: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    script = "echo one; echo oops >&2; until [ -e go ]; do sleep 0.01; done; head -c 200000 /dev/zero; exit 5"

    async def take(channel: str, offset: int, data: bytes) -> None:
        assert offset == len(pieces[channel])
        assert len(data) <= 48 * 1024
        pieces[channel] += data
        if pieces["stdout"] and pieces["stderr"]:
            (run.work / "go").touch()

    exec_ = Exec(script, stream=True, timeout=20)
    for _ in range(2):
        for kept in pieces.values():
            kept.clear()
        done = await run.commands.run("m", run.data, "p.4.1", exec_, take)
        assert (done.exit_code, done.stdout, done.stderr, done.left_out) == (5, b"", b"", 0)
        assert pieces == {"stdout": b"one\n" + bytes(200000), "stderr": b"oops\n"}


async def test_a_caller_that_goes_away_leaves_the_command(run: Runner) -> None:
    """A call that is cancelled leaves the command running; the next call attaches to it."""
    first = asyncio.create_task(run("echo $$ >pid; until [ -e go ]; do sleep 0.01; done; echo done", id="p.5.1"))
    await until(lambda: (run.work / "pid").exists() and (run.work / "pid").read_text(), "its start")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(run("", id="p.5.1"))
    (run.work / "go").touch()
    assert (await second).stdout == b"done\n"


async def test_a_caller_may_go_away_at_any_moment_of_the_start(run: Runner) -> None:
    """A call that is cancelled while it starts the command neither loses output nor has it run twice."""
    script = "echo ran >>count$N; echo one; sleep 0.05; echo two; exit 4"
    for n in range(12):
        first = asyncio.create_task(run(script, id=f"p.9.{n}", env={"N": str(n)}))
        await asyncio.wait([first], timeout=n * 0.001)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        done = await run(script, id=f"p.9.{n}", env={"N": str(n)})
        assert (done.exit_code, done.stdout) == (4, b"one\ntwo\n")
        assert (run.work / f"count{n}").read_text() == "ran\n"
    # A shell that died with its caller may leave its pair of FIFOs, until the machine is stopped.
    await until(lambda: not [p for p in run.files.iterdir() if p.suffix == ".d"], "the end of all who keep outputs")


async def test_a_command_without_process_and_exit_code_is_lost(run: Runner) -> None:
    """When all that ran and kept a command is gone, its caller is told, and it does not run again."""
    first = asyncio.create_task(run("echo ran >>count; echo $$ $PPID >pid; sleep 600", id="p.6.1"))
    await until(lambda: (run.work / "pid").exists() and (run.work / "pid").read_text(), "its start")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    command, keeper = map(int, (run.work / "pid").read_text().split())
    os.kill(keeper, 9)
    os.killpg(command, 9)
    with pytest.raises(CommandLost, match=r"p\.6\.1"):
        await run("echo ran >>count", id="p.6.1")
    assert (run.work / "count").read_text() == "ran\n"


async def test_pruned_commands_do_not_run_again(run: Runner) -> None:
    """Files of ended commands go, those of running ones stay, and an id stays used."""
    running = asyncio.create_task(run("until [ -e go ]; do sleep 0.01; done; echo end", id="p.7.1"))
    await run("touch ran; echo out", id="p.7.2")
    await until(lambda: (run.files / "p.7.1.pid").exists(), "its start")
    await run.commands.prune(run.data, 3600)
    assert (await run("", id="p.7.2")).stdout == b"out\n"
    await run.commands.prune(run.data, 0)
    assert sorted(p.name for p in run.files.glob("p.7.2*")) == ["p.7.2.gone"]
    (run.work / "ran").unlink()
    with pytest.raises(CommandLost, match="removed"):
        await run("touch ran", id="p.7.2")
    (run.work / "go").touch()
    assert (await running).stdout == b"end\n"
    assert not (run.work / "ran").exists()


async def test_what_cannot_be_run_is_refused(run: Runner) -> None:
    """Ids, names and texts that could become anything else are refused before they reach the machine."""
    for bad in ("", ".hidden", "../x", "a/b", "a b", "x" * 201, "a\n"):
        with pytest.raises(CommandRefused):
            await run("true", id=bad)
        with pytest.raises(CommandRefused):
            await run.kill(bad)
    for options in ({"env": {"A B": ""}}, {"env": {"A=": ""}}, {"env": {"A": "\0"}}, {"cwd": "\0"}, {"user": "-x y"}):
        with pytest.raises(CommandRefused):
            await run("true", **options)
    with pytest.raises(CommandRefused):
        await run("echo '" + "x" * 200_000 + "'")
    assert not run.files.exists() or not list(run.files.iterdir())


@pytest.mark.parametrize("way", ["dash-holds", "dash-detached"], indirect=True)
async def test_a_stubborn_command_is_killed_after_a_grace(run: Runner) -> None:
    """Who ignores TERM gets KILL after 5 seconds, with its children, and what it wrote until then is there."""
    script = "trap '' TERM; echo $$ >pid; sh -c 'echo $$ >child; while :; do sleep 0.1; done' & "
    script += "while :; do echo x; echo x >>said; sleep 0.1; done"
    first = asyncio.create_task(run(script, id="p.1.1"))
    for name in ("pid", "child", "said"):
        await until(lambda name=name: (run.work / name).exists() and (run.work / name).read_text(), "its start")
    done = await run(script, id="p.1.1", timeout=0.3)
    assert (done.exit_code, done.timed_out) == (137, True)
    assert 5 <= done.duration < 60
    said = (run.work / "said").stat().st_size
    assert said <= len(done.stdout) <= said + 2
    assert await first == done
    pids = [int((run.work / name).read_text()) for name in ("pid", "child")]
    await until(lambda: not any(_runs(pid) for pid in pids), "the end of all")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("way", ["dash-holds", "dash-detached"], indirect=True)
async def test_200_commands_at_a_time(run: Runner) -> None:
    """200 commands that all wait for each other's start end with their own outputs."""
    go = run.work / "go"
    os.mkfifo(go)
    end = os.open(go, os.O_RDWR)
    try:
        script = "touch s$N; read -r line <go; echo $N; exit $((N % 7))"
        asked = [asyncio.create_task(run(script, env={"N": str(n)}, timeout=140)) for n in range(200)]
        await until(lambda: len(list(run.work.glob("s*"))) == 200, "the start of all", 120)
        os.write(end, b"\n" * 200)  # a byte for each
        answers = await asyncio.gather(*asked)
    finally:
        os.close(end)
    assert [(a.exit_code, a.stdout) for a in answers] == [(n % 7, b"%d\n" % n) for n in range(200)]


@pytest.mark.parametrize("way", ["dash-holds", "dash-detached"], indirect=True)
async def test_50_megabytes_do_not_grow_the_manager(run: Runner) -> None:
    """A stream of 50 MB arrives whole while the process grows by less than 4 MB."""
    count = 0

    async def take(channel: str, offset: int, data: bytes) -> None:
        nonlocal count
        assert (channel, offset) == ("stdout", count)
        count += len(data)
        await asyncio.sleep(0)

    size = 50_000_000
    await run.commands.run("m", run.data, "p.8.0", Exec("head -c 9999 /dev/zero", stream=True), take)
    count = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    exec_ = Exec(f"head -c {size} /dev/zero", stream=True, max_output=64 * 1024 * 1024)
    done = await run.commands.run("m", run.data, "p.8.1", exec_, take)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (count, done.left_out) == (size, 0)
    assert peak < 4_000_000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 30_000_000


def _keepers(run: Runner) -> list[psutil.Process]:
    """The processes that keep outputs of commands."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(run.files) and "tee" in process.cmdline():
                found.append(process)
    return found


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
