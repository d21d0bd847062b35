"""`regrow ssh`: a shell, on a real terminal."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from conftest_cli import TIMEOUT, Stack
from regrow import Machine

pytestmark = [pytest.mark.xdist_group("cli-machines-ssh"), pytest.mark.timeout(180)]


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execvpe(argv[0], argv, environment)
        self.seen = b""

    def type(self, text: str) -> None:
        """As from the keyboard."""
        os.write(self._fd, text.encode())

    def read_until(self, text: str) -> None:
        """Wait until it shows a text."""
        deadline = time.monotonic() + TIMEOUT
        while text.encode() not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self.seen += os.read(self._fd, 65536)

    def end(self) -> int:
        """Wait for its end; the exit code."""
        while True:
            try:
                self.seen += os.read(self._fd, 65536)
            except OSError:  # nobody has the terminal open any more
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(stack: Stack, box: Machine) -> Iterator[Terminal]:
    """`regrow ssh box`."""
    argv = [sys.executable, "-m", "regrow_cli", "ssh", "box"]
    opened = Terminal(argv, {**stack.environment, "SHELL": "/bin/sh", "PS1": "ready> ", "ENV": "", "TERM": "dumb"})
    yield opened
    try:
        os.kill(opened.pid, signal.SIGKILL)
        os.waitpid(opened.pid, 0)
    except (ProcessLookupError, ChildProcessError):  # it has ended, as it should
        pass


def test_a_shell_on_the_terminal(stack: Stack, box: Machine, terminal: Terminal) -> None:
    """It is interactive and at home on the machine; Ctrl-C is for what runs in it; its exit code is ours."""
    terminal.type("test -t 0 && echo on-$REGROW_MACHINE\n")
    terminal.read_until(f"on-{box.id}\r\nready> ")
    terminal.type("sh -c 'echo be\"\"gun; exec sleep 1000'\n")
    terminal.read_until("begun")
    terminal.seen = b""
    terminal.type("\x03")
    terminal.read_until("ready> ")
    terminal.type("echo still-''here > proof; exit 3\n")
    assert terminal.end() == 3
    assert stack.regrow("exec", "box", "--", "cat proof").out == "still-here\n"


def test_the_program_behind_it(stack: Stack, box: Machine) -> None:
    """`--print` says how it is opened, and that is so."""
    argv = shlex.split(stack.regrow("ssh", "--print", "box").out)
    done = subprocess.run(argv, input="echo $REGROW_MACHINE", capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{box.id}\n"


def test_from_another_computer(stack: Stack, box: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says where the machine is, and what to run there."""
    monkeypatch.setitem(stack.environment, "REGROW_NODE", "another")
    done = stack.regrow("ssh", "box")
    assert (done.code, f"from the node {box.node}, and this is another" in done.error) == (1, True)
    monkeypatch.delitem(stack.environment, "REGROW_NODE")
    assert f"hint: there: {stack.regrow('ssh', '--print', 'box').out.strip()}" in done.err
