"""Processes that are not our children: told apart by pid and start, ended, found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest
from regrow_cli import os_process
from regrow_cli.os_process import Identity, end, identify, is_alive, running_with_argument, send

MARK = f"sleeper-{uuid.uuid4()}"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(100)"


def _start(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(1)  # it has set itself up
    return process


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when asked to."""
    with _start("import time; print(1, flush=True); time.sleep(100)", MARK) as process:
        yield process
        process.kill()


def test_identity_is_of_one_process(sleeper: subprocess.Popen[bytes]) -> None:
    """The same process has the same identity; a pid with another start is another process."""
    found = identify(sleeper.pid)
    assert found == identify(sleeper.pid)
    assert is_alive(found)
    assert not is_alive(Identity(sleeper.pid, found.started + "1"))
    assert identify(os.getpid()) != found


def test_ended_and_unreaped_is_dead(sleeper: subprocess.Popen[bytes]) -> None:
    """A process that has ended is dead, even while its parent has not asked for its exit code."""
    found = identify(sleeper.pid)
    assert end(found, grace=5)
    assert identify(sleeper.pid) is None
    assert not send(found, signal.SIGTERM)
    assert sleeper.wait(5) == -signal.SIGTERM


def test_end_kills_what_does_not_listen() -> None:
    """After the grace comes SIGKILL."""
    with _start(STUBBORN) as process:
        assert end(identify(process.pid), grace=0.1)
        assert process.wait(5) == -signal.SIGKILL


def test_end_of_a_stopped_process(sleeper: subprocess.Popen[bytes]) -> None:
    """A process that is stopped (SIGSTOP) still ends gracefully."""
    found = identify(sleeper.pid)
    send(found, signal.SIGSTOP)
    assert end(found, grace=5)
    assert sleeper.wait(5) == -signal.SIGTERM


def test_another_with_the_same_pid_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    """Ending a process that is gone does nothing to the one that has its pid now."""
    assert end(Identity(sleeper.pid, "long ago"), grace=1)
    assert sleeper.poll() is None


def test_found_by_argument(sleeper: subprocess.Popen[bytes]) -> None:
    """A process is found by a whole argument, not by a part of one."""
    assert running_with_argument(MARK) == [identify(sleeper.pid)]
    assert running_with_argument(MARK[:-1]) == []


@pytest.mark.skipif(not os.access("/bin/ps", os.X_OK), reason="no /bin/ps here")
def test_without_proc(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no /proc, `ps` tells the same."""
    monkeypatch.setattr(os_process.sys, "platform", "elsewhere")
    found = identify(sleeper.pid)
    assert found is not None
    assert running_with_argument(MARK) == [found]
    assert end(found, grace=5)
    assert identify(sleeper.pid) is None


def test_no_such_process() -> None:
    """A pid that nobody can have, and one that stands for groups."""
    assert identify(2**31 - 1) is None
    assert identify(0) is None
    assert identify(-1) is None
