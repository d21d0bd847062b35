"""Operating-system processes that are not our children: is it alive, is it still the same one, end it.

A pid alone may belong to somebody else by now; an `Identity` adds when the process started, so what was written down
before a crash can be compared with what runs today. Linux is read from `/proc`, other systems through `ps`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

_PROC = Path("/proc")
_POLL = 0.02


class Identity(Struct, frozen=True):
    """A process that runs or ran.

    Attributes:
        pid: its number.
        started: when, opaque: equal only for the same process on the same boot.
    """

    pid: int
    started: str


def identify(pid: int) -> Identity | None:
    """The process that has this pid now; None when there is none or it only waits to be reaped."""
    if pid <= 0:
        return None
    found = _from_proc(pid) if sys.platform == "linux" else _from_ps(pid)
    return Identity(pid, found) if found else None


def is_alive(process: Identity) -> bool:
    """Whether exactly this process still runs."""
    return identify(process.pid) == process


def end(process: Identity, *, grace: float, kill_wait: float = 5.0) -> bool:
    """End it with SIGTERM, after `grace` seconds with SIGKILL; blocks. Returns whether it is gone.

    Raises:
        PermissionError: it belongs to another user.
    """
    for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, kill_wait)):
        if not send(process, number):
            return True
        # A stopped process would see SIGTERM only when somebody continues it.
        send(process, signal.SIGCONT)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            if not is_alive(process):
                return True
            time.sleep(_POLL)
    return not is_alive(process)


def send(process: Identity, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False when it is gone."""
    if not is_alive(process):
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def running_with_argument(argument: str) -> list[Identity]:
    """This user's processes with exactly `argument` on their command line."""
    found: list[Identity] = []
    for pid, arguments in _command_lines():
        if argument in arguments and pid != os.getpid() and (identity := identify(pid)):
            found.append(identity)
    return found


def _from_proc(pid: int) -> str:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The name in parentheses may hold anything; what follows is fixed: the state, and 19 further the start in ticks.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX" and not _has_threads(pid):
        return ""
    return f"{_boot_id()}:{fields[19]}"


def _has_threads(pid: int) -> bool:
    """Of a process whose first thread has ended: others may still be at work, and hold its files and locks."""
    try:
        return len(list((_PROC / str(pid) / "task").iterdir())) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def _boot_id() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # hidden in some containers: start times are compared within one boot then
        return ""


def _from_ps(pid: int) -> str:
    listed = subprocess.run(  # noqa: S603 - fixed command, a number as argument
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False
    )
    state, _, started = listed.stdout.strip().partition(" ")
    return "" if not state or state.startswith("Z") else started.strip()


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    if sys.platform == "linux":
        for entry in _PROC.iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if entry.stat().st_uid == os.getuid():
                    yield int(entry.name), (entry / "cmdline").read_text(errors="replace").split("\0")
            except (FileNotFoundError, ProcessLookupError, PermissionError):  # it ended meanwhile, or is hidden
                continue
        return
    listed = subprocess.run(
        ["/bin/ps", "-xwwo", "pid=,command="], capture_output=True, text=True, timeout=10, check=False
    )
    for line in listed.stdout.splitlines():
        pid, _, command = line.strip().partition(" ")
        yield int(pid), command.split(" ")
