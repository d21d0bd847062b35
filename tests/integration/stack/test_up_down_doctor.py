"""`regrow up`, `down` and `doctor` as a user runs them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from regrow_cli.commands.up import HOLD
from regrow_cli.data_dir import DataDir
from regrow_cli.stack import stack_status
from regrow_protocol import streams
from regrow_protocol.bus import Bus
from regrow_protocol.server import NatsServer

from .conftest import Ensure, child

if TYPE_CHECKING:
    from conftest import Until

Regrow = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def regrow(folder: Path) -> Iterator[Regrow]:
    """Runs `regrow …` on the folder."""
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "regrow_cli", *arguments]
        environment = os.environ | {"REGROW_HOME": str(folder), "REGROW_NATS_URL": ""} | environment
        options: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
        running.append(subprocess.Popen(argv, **options))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


async def _finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = await asyncio.to_thread(process.communicate, timeout=40)
    return process.returncode, out, err


def _names(folder: Path) -> list[str]:
    return [each.name for each in stack_status(folder).connected or []]


async def test_foreground_ends_with_ctrl_c(folder: Path, regrow: Regrow, until: Until) -> None:
    """`up` says what runs; Ctrl-C ends it, and what it had started."""
    up = regrow("up")
    await until(lambda: _names(folder) == [HOLD], "its connection")
    up.send_signal(signal.SIGINT)
    code, out, err = await _finished(up)
    assert (code, err) == (0, "")
    assert re.search(r"nats: pid \d+", out)
    assert out.splitlines()[-1] == "Stopped."
    assert stack_status(folder).state == "stopped"


async def test_foreground_leaves_others_their_stack(folder: Path, regrow: Regrow, until: Until) -> None:
    """If programs are connected when `up` ends, the stack stays for them, and `up` says so."""
    up = regrow("up")
    await until(lambda: _names(folder) == [HOLD], "its connection")
    info = stack_status(folder).info
    async with await Bus.connect(info.url, name="a program"):
        up.send_signal(signal.SIGTERM)
        code, out, _ = await _finished(up)
        assert code == 0
        assert "Programs use the stack" in out.splitlines()[-1]
        assert stack_status(folder).info == info


async def test_detached_until_down(folder: Path, regrow: Regrow) -> None:
    """`up --detach` returns when it runs; `down` stops it; both say where the data is."""
    code, out, err = await _finished(regrow("up", "--detach"))
    assert (code, err) == (0, "")
    assert str(folder) in out
    status = stack_status(folder)
    assert status.state == "running"
    assert status.kept
    code, out, _ = await _finished(regrow("down"))
    assert (code, out) == (0, f"Stopped. The data is in {folder}.\n")
    code, out, _ = await _finished(regrow("down"))
    assert (code, out) == (0, f"No stack runs in {folder}.\n")


async def test_up_sees_that_it_was_stopped(folder: Path, regrow: Regrow, until: Until) -> None:
    """`down` in another terminal ends a foreground `up`."""
    up = regrow("up")
    await until(lambda: _names(folder) == [HOLD], "its connection")
    await _finished(regrow("down"))
    code, out, _ = await _finished(up)
    assert (code, out.splitlines()[-1]) == (0, "It has been stopped already.")


async def test_up_shows_a_restart(folder: Path, place: DataDir, regrow: Regrow, until: Until) -> None:
    """What dies and comes back is a line on the terminal."""
    up = regrow("up", PYTHONUNBUFFERED="1")
    await until(lambda: _names(folder) == [HOLD], "its connection")
    os.kill(child(place, "nats").process.pid, signal.SIGKILL)
    assert up.stdout is not None
    seen = ""
    while not ("nats: pid" in seen and "restarted 1 times" in seen):
        seen = await asyncio.wait_for(asyncio.to_thread(up.stdout.readline), 20)


@pytest.mark.parametrize("command", ["up", "down"])
async def test_another_server_is_wrong_usage(regrow: Regrow, command: str) -> None:
    """`--nats` has no meaning for a server that Regrow runs itself."""
    code, _, err = await _finished(regrow(command, "--nats", "nats://127.0.0.1:1"))
    assert code == 2
    assert err.startswith("error: ")


async def test_unusable_folder(tmp_path: Path, regrow: Regrow) -> None:
    """A data folder that is a file: one line, a hint, exit code 10."""
    (tmp_path / "file").write_text("")
    code, _, err = await _finished(regrow("up", "--data", str(tmp_path / "file")))
    assert code == 10
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]


async def _doctor(regrow: Regrow, *arguments: str, **environment: str) -> tuple[int, dict[str, dict[str, str]]]:
    code, out, err = await _finished(regrow("doctor", "--json", *arguments, **environment))
    assert err == ""
    return code, {check["name"]: check for check in json.loads(out)}


async def test_doctor_on_a_stack(folder: Path, place: DataDir, regrow: Regrow, ensure: Ensure, until: Until) -> None:
    """The doctor sees a stack that works, one that is `fast`, missing streams, restarts, and what a kill -9 leaves."""
    info = await ensure()
    code, checks = await _doctor(regrow)
    assert code == 0
    assert {name for name, check in checks.items() if check["status"] != "ok"} - {"disk", "tmux"} == {
        "fsync",  # this suite's stacks are fast
        "streams",  # nobody has made them yet
    }
    async with await Bus.connect(info.url, name="test") as bus:
        await streams.ensure(bus)
        await streams.ensure_app(bus, "shop")
    os.kill(child(place, "nats").process.pid, signal.SIGKILL)
    await until(lambda: (r := child(place, "nats")) and r.restarts == 1, "the restart")
    code, checks = await _doctor(regrow)
    assert code == 0
    assert checks["streams"]["status"] == "ok"
    assert "1 apps" in checks["streams"]["detail"]
    assert checks["clock"]["status"] == "ok"
    assert checks["embedded stack"]["status"] == "warn"
    assert "nats 1 times" in checks["embedded stack"]["detail"]
    os.kill(info.pid, signal.SIGKILL)
    await until(lambda: stack_status(folder).state == "orphaned", "its end")
    code, checks = await _doctor(regrow)
    assert "left behind: nats" in checks["embedded stack"]["detail"]


async def test_doctor_on_a_safe_stack(regrow: Regrow, ensure: Ensure, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default every write is on the disk before it is acknowledged, and the doctor confirms it."""
    monkeypatch.delenv("REGROW_DURABILITY")
    await ensure()
    _, checks = await _doctor(regrow)
    assert checks["fsync"]["status"] == "ok"


async def test_doctor_without_anything(folder: Path, regrow: Regrow) -> None:
    """On a fresh machine nothing is wrong, and the doctor leaves no trace."""
    code, checks = await _doctor(regrow)
    assert code == 0
    assert checks["embedded stack"]["status"] == "ok"
    assert not folder.exists()


async def test_doctor_on_another_server(private_server: NatsServer, regrow: Regrow) -> None:
    """With --nats or REGROW_NATS_URL it looks at that server; that it does not answer is a failure."""
    code, checks = await _doctor(regrow, REGROW_NATS_URL=private_server.url)
    assert code == 0
    assert checks["NATS"]["status"] == "ok"
    assert re.match(r"2\.\d+\.\d+ at 127\.0\.0\.1:\d+$", checks["NATS"]["detail"])
    private_server.stop()
    code, checks = await _doctor(regrow, "--nats", private_server.url)
    assert code == 14
    assert checks["NATS"]["status"] == "fail"
    assert checks["NATS"]["hint"]


async def test_doctor_on_paper(folder: Path, regrow: Regrow) -> None:
    """For people: a line for each check, a hint under those that are not ok, no colours in a pipe."""
    folder.mkdir(mode=0o755)
    code, out, _ = await _finished(regrow("doctor"))
    assert code == 0
    assert "\x1b" not in out
    lines = out.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("warn  data folder")]
    assert lines[at + 1].strip() == f"hint: chmod 700 {folder}"
