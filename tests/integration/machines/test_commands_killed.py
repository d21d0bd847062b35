"""Commands whose manager is killed with SIGKILL in the middle: they go on, run once, and nothing of them is lost."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_caller import Detaching
from machine_waiting import until
from regrow_machine_manager.backend import Data
from regrow_machine_manager.backends.local import LocalBackend
from regrow_machine_manager.commands import Commands
from regrow_protocol.machines import Exec

CALLER = Path(__file__).with_name("command_caller.py")


def call(
    backend: LocalBackend, data: Data, way: str, name: str, command: str, stdin: str = ""
) -> subprocess.Popen[bytes]:
    folder = str(backend.node.folder)
    return subprocess.Popen(
        [sys.executable, str(CALLER), folder, data["machine"], way, name, command, stdin], stdout=subprocess.PIPE
    )


@pytest.mark.parametrize("way", ["holds", "detaches"])
async def test_a_command_survives_kill_9_of_its_manager(local: LocalBackend, machine: Data, way: str) -> None:
    """Killed before, while and after it writes, it ran once, and its exit code and whole output are there."""
    work = Path(local.workdir(machine))
    script = (
        "echo ran >>count; echo one; head -c 100000 /dev/zero; touch began; "
        "until [ -e go ]; do sleep 0.01; done; cat; echo two; echo err >&2; touch ended; exit 21"
    )
    first = call(local, machine, way, "p.1.1", script, "input")
    with first:
        await until((work / "began").exists, "its start")
        first.send_signal(signal.SIGKILL)
    second = call(local, machine, way, "p.1.1", script, "input")
    with second:
        (work / "go").touch()
        await until((work / "ended").exists, "its end")
        second.send_signal(signal.SIGKILL)
    commands = Commands(local if way == "holds" else Detaching(local.node))
    done = await commands.run(machine["machine"], machine, "p.1.1", Exec(script, stdin=b"input"))
    await commands.close()
    expected = b"one\n" + bytes(100000) + b"inputtwo\n"
    assert (done.exit_code, done.stdout, done.stderr) == (21, expected, b"err\n")
    assert (work / "count").read_text() == "ran\n"


@pytest.mark.parametrize("way", ["holds", "detaches"])
async def test_kill_9_at_any_moment_of_the_start(local: LocalBackend, machine: Data, way: str) -> None:
    """Whenever its manager is killed while it starts a command, the next call has run it, once."""
    work = Path(local.workdir(machine))
    files = Path(local.state(machine)) / "commands"
    for n, moment in enumerate(["run", "pid", "out", "exit", "run", "out" if way == "holds" else "n1"]):
        id_ = f"p.2.{n}"
        script = f"echo ran >>count{n}; echo said; exit {n}"
        with call(local, machine, way, id_, script) as caller:
            await until((files / f"{id_}.{moment}").exists, "the moment")
            caller.kill()
        with call(local, machine, way, id_, script) as caller:
            out, _ = await asyncio.to_thread(caller.communicate)
        assert json.loads(out) == [n, "said\n"]
        assert (work / f"count{n}").read_text() == "ran\n"


async def test_a_time_limit_goes_on_after_kill_9(local: LocalBackend, machine: Data, commands: Commands) -> None:
    """Who attaches enforces the limit from the command's start, not from the attachment."""
    work = Path(local.workdir(machine))
    script = "echo $$ >pid; sleep 600"
    with call(local, machine, "holds", "p.3.1", script) as caller:
        await until(lambda: (work / "pid").exists() and (work / "pid").read_text(), "its start")
        caller.kill()
    kept = Path(local.state(machine)) / "commands" / "p.3.1.pid"
    pid, ticks, start, user = kept.read_text().split()
    kept.write_text(f"{pid} {ticks} {float(start) - 1000:.2f} {user}\n")  # as if that was long ago
    async with asyncio.timeout(30):
        done = await commands.run(machine["machine"], machine, "p.3.1", Exec(script, timeout=1000))
    assert done.timed_out
    assert done.duration >= 1000
