"""Keeps child processes running: starts them, notices their end, starts them again with back-off.

`keep` owns one child for as long as it is not cancelled; cancelled, it ends the child (SIGTERM, after a grace SIGKILL
for its whole session) and is done when that is gone. What must happen at a child's death at once, before its restart,
is the caller's `on_exit`: for a host, announcing that it is gone (`regrow_cli.hosts`), so that its partitions are taken
over without waiting for its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from .os_process import Identity, identify

if TYPE_CHECKING:  # structlog takes a quarter of a second to import, and whoever only asks for a stack needs none of it
    from regrow_service.logs import Logger

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
STEADY = 10.0
"""Seconds after which a child counts as running well: its next end is answered at once again."""


class ChildSpec(Struct, frozen=True, omit_defaults=True):
    """A program to keep running.

    Attributes:
        name: unique among its siblings; names its log file.
        argv: the command; the first is a path or found on PATH.
        env: on top of the environment that all children get.
        cwd: working directory; empty: that of the parent.
        grace: seconds from SIGTERM to SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    cwd: str = ""
    grace: float = 3.0


@dataclass
class Child:
    """One kept program.

    Attributes:
        process: the present run; None between two.
        restarts: how often it was started again.
        since: start of the present or last run, seconds since 1970.
        last_exit: how the last run ended, for people; empty before the first end.
    """

    spec: ChildSpec
    process: Identity | None = None
    restarts: int = 0
    since: float = 0.0
    last_exit: str = ""


class BackOff:
    """Pauses between restarts: none after a steady run, then doubling from FIRST_PAUSE to LONGEST_PAUSE seconds."""

    def __init__(self) -> None:
        self._failures = 0

    def after(self, ran_for: float) -> float:
        """Seconds to wait after a run of `ran_for` seconds."""
        self._failures = 0 if ran_for >= STEADY else self._failures + 1
        return 0.0 if self._failures <= 1 else min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._failures - 2))


@dataclass(frozen=True)
class Keeper:
    """What the kept children of one parent share.

    Attributes:
        environment: of the next run of any child.
        logs: folder of their output, `<name>.log`.
        log: where the parent says what happens.
        on_exit: awaited after each end that was not asked for, the child still showing the run that ended. It must not
            take long, and what it raises is logged.
        on_change: called when a child has started or ended.
    """

    environment: Callable[[], dict[str, str]]
    logs: Path
    log: Logger
    on_exit: Callable[[Child], Awaitable[None]] | None = None
    on_change: Callable[[], None] = lambda: None

    async def keep(self, child: Child) -> None:
        """Run the child, and again when it ends, until cancelled."""
        back_off = BackOff()
        while True:
            child.since, began = time.time(), time.monotonic()
            code = await self._run(child)
            ran_for = time.monotonic() - began
            child.last_exit = describe_exit(code)
            pause = back_off.after(ran_for)
            self.log.warning(
                "child ended",
                child=child.spec.name,
                os_pid=child.process.pid if child.process else None,
                how=child.last_exit,
                ran_for=round(ran_for, 2),
                restart_in=pause,
                output=str(self.logs / f"{child.spec.name}.log"),
            )
            await self._announce(child)
            child.process = None
            self.on_change()
            await asyncio.sleep(pause)
            child.restarts += 1

    async def _run(self, child: Child) -> int:
        """One run, to its end; returns its exit code, negative for a signal, 127 when it could not be started."""
        spec = child.spec
        try:
            process = await self._spawn(spec)
        except OSError as error:
            self.log.warning("child cannot be started", child=spec.name, command=spec.argv[0], reason=str(error))
            return 127
        child.process = identify(process.pid)
        self.on_change()
        self.log.info("child started", child=spec.name, os_pid=process.pid)
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                await end(process, spec.grace)
                self.log.info("child stopped", child=spec.name, how=describe_exit(process.returncode or 0))
                child.process = None
                self.on_change()

    async def _spawn(self, spec: ChildSpec) -> asyncio.subprocess.Process:
        output = os.open(self.logs / f"{spec.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment() | spec.env,
                cwd=spec.cwd or None,
                start_new_session=True,  # a Ctrl-C is for the parent to handle, and the session can be ended as a whole
            )
        finally:
            os.close(output)

    async def _announce(self, child: Child) -> None:
        if self.on_exit is None:
            return
        try:
            await self.on_exit(child)
        except Exception as error:  # noqa: BLE001 - whatever it is, the child must be started again
            self.log.warning("the child's end could not be announced", child=child.spec.name, reason=repr(error))


async def end(process: asyncio.subprocess.Process, grace: float) -> None:
    """End a child of `_spawn`: SIGTERM to it, and after `grace` seconds SIGKILL to its session."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        process.send_signal(signal.SIGCONT)
    try:
        async with asyncio.timeout(grace):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def describe_exit(code: int) -> str:
    """An exit code for people: `exit code 3`, `SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
