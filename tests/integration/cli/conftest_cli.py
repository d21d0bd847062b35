"""The command as users run it: real processes on a real embedded stack, one for each module of tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from regrow.client import Client
from regrow_cli.os_process import identify, is_alive
from regrow_cli.processes import BUCKET, ENDS, Row, in_tree_order, rows
from regrow_cli.stack import ensure_stack, stop_stack
from regrow_protocol import streams
from regrow_protocol.bus import Bus
from regrow_protocol.subjects import token

PROGRAMS = Path(__file__).parent / "programs"
TIMEOUT = 60.0


class Done(Struct):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output."""
        assert self.out.strip(), f"it printed nothing, ended with {self.code} and said: {self.err}"
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The line that says what went wrong."""
        return next((line for line in self.err.splitlines() if line.startswith("error: ")), "")


class Stack:
    """A data folder with a stack, and commands on it.

    Attributes:
        data: the folder.
        url: of its NATS server.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        self.url = ""
        self.environment = {
            **os.environ,
            "REGROW_HOME": str(data),
            "REGROW_DURABILITY": "fast",
            "REGROW_STACK_IDLE": "600",
            "REGROW_HOST_TTL": "10",  # a host that stands still for a while is not dead
            "REGROW_WARN_TURN": "60",  # and says nothing of it
            "REGROW_MACHINE_BACKENDS": "local",  # the others take seconds to import
            "REGROW_NATS_URL": "",
            "REGROW_DEBUG": "",
        }

    def regrow(self, *arguments: str, cwd: Path | None = None, given: str = "") -> Done:
        """Run a command to its end."""
        argv = [sys.executable, "-m", "regrow_cli", *arguments]
        ended = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=cwd,
            input=given,
            timeout=TIMEOUT,
            check=False,
        )
        return Done(ended.returncode, ended.stdout, ended.stderr)

    def ls(self, *arguments: str) -> list[dict[str, Any]]:
        """`regrow ls --json`."""
        return self.regrow("ls", "--json", *arguments).json

    def rows(self, app: str, *, ended: bool = False) -> list[Row]:
        """What `regrow ls` would list, without the second that starting it takes: for waiting."""

        async def read() -> list[Row]:
            async with await Bus.connect(self.url, name="test") as bus:
                return in_tree_order([row for row in await rows(bus) if row.app == app])

        return [row for row in asyncio.run(read()) if ended or row.status not in ENDS]

    def holder(self, app: str, name: str) -> str:
        """The pid of the process that has a name, once it is written down."""

        async def read() -> str:
            async with await Bus.connect(self.url, name="test") as bus:
                found = await bus.kv(BUCKET).get(f"name.{token(app)}.{token(name)}")
                return found[0].decode() if found is not None else ""

        return asyncio.run(read())

    def events(self, app: str, pid: str) -> list[str]:
        """The types of a process's events."""

        async def read() -> list[str]:
            async with await Bus.connect(self.url, name="test") as bus:
                return [event.type async for event in Client(bus).records(app, pid, follow=False)]

        return asyncio.run(read())


class Running:
    """A program that runs beside the test; its output goes to files, so that it never waits for a reader."""

    def __init__(self, argv: list[str], environment: dict[str, str], folder: Path, number: int) -> None:
        self._out, self._err = folder / f"{number}.out", folder / f"{number}.err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait(self) -> Done:
        """Wait for its end."""
        code = self.process.wait(TIMEOUT)
        return Done(code, self.out, self.err)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def interrupt(self) -> Done:
        """Ctrl-C, and wait for its end."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()


Launch = Callable[..., Running]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this module's own."""
    with stack_in(tmp_path_factory.mktemp("data"), {}) as made:
        yield made


@contextlib.contextmanager
def stack_in(folder: Path, environment: dict[str, str]) -> Iterator[Stack]:
    """A stack whose data is in a folder, with these variables besides."""
    made = Stack(folder / "regrow")
    made.environment |= environment
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment.items():
            if name.startswith("REGROW_") or name in environment:
                patch.setenv(name, value)
        made.url = ensure_stack(made.data, keep=True, timeout=60.0).url
    try:
        asyncio.run(_prepared(made.url))
        yield made
    finally:
        stop_stack(made.data)


async def _prepared(url: str) -> None:
    """Make what tests read before any command has made it."""
    async with await Bus.connect(url, name="test") as bus:
        await streams.ensure(bus)


@pytest.fixture
def launch(stack: Stack, tmp_path: Path) -> Iterator[Launch]:
    """Runs `regrow …`, or with `program` a Python file, beside the test."""
    running: list[Running] = []

    def start(*arguments: str, program: Path | None = None, environment: dict[str, str] | None = None) -> Running:
        head = [sys.executable, str(program)] if program is not None else [sys.executable, "-m", "regrow_cli"]
        started = Running([*head, *arguments], {**stack.environment, **(environment or {})}, tmp_path, len(running))
        running.append(started)
        return started

    yield start
    for each in running:
        each.kill()


@pytest.fixture
def tally(tmp_path: Path) -> Path:
    """A copy of the program, that a test may change; in an app of its own, since that is named for the file."""
    return copy_of("tally.py", tmp_path)


def copy_of(name: str, folder: Path) -> Path:
    """A program under a name of its own."""
    made = folder / f"{Path(name).stem}_{folder.parent.name[-3:]}_{folder.name.strip('_')[:40]}.py".replace("-", "_")
    shutil.copyfile(PROGRAMS / name, made)
    return made


def until(condition: Callable[[], Any], what: str, timeout: float = 40.0) -> Any:
    """Wait for a condition and return what it gives; fails naming `what`."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout} s"
        time.sleep(0.02)
    return found


def pid_in(running: Running) -> str:
    """The pid that a run has shown."""
    words = until(lambda: [word for word in running.err.split() if word.startswith("p_")], "the pid")
    return words[0]


def end_of(os_pid: int) -> None:
    """Wait for the end of a process that is not ours."""
    identity = identify(os_pid)
    if identity is not None:
        until(lambda: not is_alive(identity), f"the end of process {os_pid}")


@contextlib.contextmanager
def opened(gate: Path, content: str = "open") -> Iterator[None]:
    """Open a gate when the block ends, however it ends."""
    try:
        yield
    finally:
        gate.write_text(content)
