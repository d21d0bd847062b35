"""Kept child processes: started again with back-off, their ends announced first, gone when the keeper is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from regrow_cli.children import BackOff, Child, ChildSpec, Keeper, describe_exit
from regrow_cli.os_process import is_alive
from regrow_service.logs import get_logger

if TYPE_CHECKING:
    from conftest import Until

SLEEP = (sys.executable, "-c", "import time; time.sleep(100)")


@asynccontextmanager
async def kept(keeper: Keeper, child: Child) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(keeper.keep(child))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _keeper(tmp_path: Path, **options: object) -> Keeper:
    return Keeper(lambda: dict(os.environ) | {"FROM": "keeper"}, tmp_path, get_logger("test"), **options)


async def test_back_off() -> None:
    """The first end, and one after a steady run, is answered at once; then pauses double up to five seconds."""
    back_off = BackOff()
    assert [back_off.after(0.1) for _ in range(8)] == [0, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
    assert back_off.after(60) == 0
    assert [back_off.after(0.1) for _ in range(2)] == [0, 0.2]


async def test_end_is_announced_before_the_restart(tmp_path: Path, until: Until) -> None:
    """`on_exit` sees the run that ended, and the next run begins after it."""
    seen: list[tuple[int, str]] = []
    release = asyncio.Event()

    async def on_exit(ended: Child) -> None:
        assert ended.process is not None
        seen.append((ended.process.pid, ended.last_exit))
        await release.wait()

    child = Child(ChildSpec("a", SLEEP))
    async with kept(_keeper(tmp_path, on_exit=on_exit), child):
        await until(lambda: child.process, "the start")
        first = child.process
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: seen, "the announcement")
        assert seen == [(first.pid, "SIGKILL")]
        assert child.process == first
        release.set()
        await until(lambda: child.restarts == 1 and child.process, "the restart")
        assert child.process != first


async def test_announcement_that_fails_does_not_keep_it_down(tmp_path: Path, until: Until) -> None:
    """Whatever `on_exit` raises, the child is started again."""

    async def on_exit(_: Child) -> None:
        raise RuntimeError("no")

    child = Child(ChildSpec("a", (sys.executable, "-c", "raise SystemExit(3)")))
    async with kept(_keeper(tmp_path, on_exit=on_exit), child):
        await until(lambda: child.restarts >= 2, "two restarts")
        assert child.last_exit == "exit code 3"


async def test_cancelled_keeper_ends_its_child(tmp_path: Path, until: Until) -> None:
    """When the keeper is done, the child is gone, and `on_exit` was not called: this end was asked for."""
    announced: list[Child] = []

    async def on_exit(ended: Child) -> None:
        announced.append(ended)

    child = Child(ChildSpec("a", SLEEP))
    async with kept(_keeper(tmp_path, on_exit=on_exit), child):
        await until(lambda: child.process, "the start")
        running = child.process
    assert not is_alive(running)
    assert announced == []
    assert child.process is None


async def test_stubborn_child_is_killed_with_its_session(tmp_path: Path, until: Until) -> None:
    """What ignores SIGTERM is killed after its grace, and so is what it started."""
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)', sys.argv[1]]);"
        "print(p.pid, flush=True); time.sleep(100)"
    )
    child = Child(ChildSpec("stubborn", (sys.executable, "-c", code, "grandchild"), grace=0.2))
    log = tmp_path / "stubborn.log"
    async with kept(_keeper(tmp_path), child):
        await until(lambda: log.exists() and log.read_text().endswith("\n"), "its child")
    grandchild = Path("/proc") / log.read_text().strip() / "stat"

    def ended() -> bool:
        try:
            return ") Z" in grandchild.read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True

    await until(ended, "the grandchild's end")


async def test_environment_and_output(tmp_path: Path, until: Until) -> None:
    """A child gets the keeper's environment and its own on top; what it writes is in its log, with what came before."""
    (tmp_path / "a.log").write_text("before\n")
    code = (
        "import os, sys; e = os.environ; print(e['FROM'], e['OWN'], os.getcwd(), file=sys.stderr, flush=True); input()"
    )
    spec = ChildSpec("a", (sys.executable, "-c", code), env={"OWN": "spec"}, cwd=str(tmp_path))
    child = Child(spec)
    async with kept(_keeper(tmp_path), child):
        await until(lambda: (tmp_path / "a.log").read_text().count("\n") > 1, "a line of output")
    assert (tmp_path / "a.log").read_text().splitlines()[:2] == ["before", f"keeper spec {tmp_path}"]


@pytest.mark.parametrize(
    ("code", "text"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "SIGKILL"), (-99, "signal 99")]
)
def test_describe_exit(code: int, text: str) -> None:
    """Signals have names."""
    assert describe_exit(code) == text
