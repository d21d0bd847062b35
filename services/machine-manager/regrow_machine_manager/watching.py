"""What is known of commands on a machine, and one watcher that looks at all that run on it at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from .backend import BackendUnavailable, MachineFailed

FIRST = 0.02
"""Seconds between two looks when something has just happened."""

LAST = 0.5
"""Seconds between two looks when nothing has happened for a while."""

MANY = 200
"""Commands that are looked at in one call."""


@dataclass(frozen=True)
class Status:
    """What a machine says of a command; times are seconds of its uptime.

    Attributes:
        state: `none`, `starting`, `run`, `exit`, `dead` (without an exit code), `gone` (its files were removed).
        code: its exit code.
        start, end, now: when it began and ended, and when this was said.
        totals: bytes of its outputs in all; None while something holds them open.
        held: what it wrote is on its way into files: in the hands of another manager, or who keeps it is late.
        why: it was killed, `kill` or `timeout`.
        sizes: bytes of its outputs that are there, where they were asked for.
        inline: beginnings of its outputs, where they came along.
        at: when this was heard, of the manager's monotonic clock.
    """

    state: str
    code: int = 0
    start: float = 0.0
    end: float = 0.0
    now: float = 0.0
    totals: tuple[int | None, int | None] = (None, None)
    held: bool = False
    why: str = ""
    sizes: tuple[int, int] = (0, 0)
    inline: tuple[bytes, bytes] | None = None
    at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def whole(self) -> bool:
        """Whether it ended, and its outputs too."""
        return self.state == "exit" and None not in self.totals


def parse(line: str) -> Status:
    """The status in a line of the wrapper.

    Raises:
        MachineFailed: it is none.
    """
    words = line.split()
    try:
        match words:
            case ["exit", code, start, end, now, out, err, why]:
                totals = (_number(out), _number(err))
                held = "h" in (out, err)
                return Status("exit", int(code), float(start), float(end), float(now), totals, held, why.strip("-"))
            case ["run", start, now, why]:
                return Status("run", start=float(start), now=float(now), why=why.strip("-"))
            case ["dead", start, now]:
                return Status("dead", start=float(start), now=float(now))
            case ["none" | "gone" | "starting" as state]:
                return Status(state)
            case _:
                pass
    except ValueError:
        pass
    raise MachineFailed(f"The machine's shell answered {line[:200]!r} about a command", hint="is its sh a POSIX shell?")


def parse_sized(line: str) -> Status:
    """The status in a line that begins with the outputs' sizes."""
    out, err, rest = (*line.split(maxsplit=2), "", "", "")[:3]
    return replace(parse(rest), sizes=(_number(out) or 0, _number(err) or 0))


def _number(text: str) -> int | None:
    return None if text in {"", "-", "h"} else int(text)


class Watch:
    """What one command's caller is told.

    Attributes:
        id: of the command.
        live: it wants to know the sizes of the outputs.
        patient: it hears of the end in another way, and is looked at rarely.
    """

    def __init__(self, id: str, *, live: bool, patient: bool) -> None:  # noqa: A002
        self.id = id
        self.live = live
        self.patient = patient
        self._told = asyncio.Event()
        self._unseen: Status | None = None
        self._last: Status | None = None
        self._error: BaseException | None = None

    def tell(self, status: Status) -> bool:
        """Take what is known now; returns whether it is other than before."""
        new = self._last is None or replace(self._last, now=0.0) != replace(status, now=0.0)
        self._last = self._unseen = status
        self._told.set()
        return new

    def fail(self, error: BaseException) -> None:
        """The caller gets an error instead."""
        self._error = error
        self._told.set()

    async def next(self) -> Status:
        """The newest that was told and not seen yet."""
        await self._told.wait()
        self._told.clear()
        if self._error is not None:
            raise self._error
        assert self._unseen is not None
        return self._unseen


Look = Callable[[list[str]], Awaitable[list[Status]]]


class Watcher:
    """Looks at the running commands of one user on one machine, while there are any.

    Args:
        look: asks the machine about commands (`+` before an id: with sizes), in their order.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._watches: set[Watch] = set()
        self._task: asyncio.Task[None] | None = None
        self._added = asyncio.Event()

    def add(self, id: str, *, live: bool, patient: bool = False) -> Watch:  # noqa: A002
        """Watch a command, from now until `remove`."""
        watch = Watch(id, live=live, patient=patient)
        self._watches.add(watch)
        if not patient:
            self._added.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="watch-commands")
        return watch

    def hurry(self, watch: Watch) -> None:
        """Look at a patient one as at others from now on."""
        watch.patient = False
        self._added.set()

    def remove(self, watch: Watch) -> None:
        self._watches.discard(watch)
        if not self._watches:
            self._added.set()

    async def close(self) -> None:
        """Stop; who still waits is cancelled by its owner."""
        self._watches.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause = FIRST
        while self._watches:
            self._added.clear()
            if all(watch.patient for watch in self._watches):
                pause = LAST
            try:
                async with asyncio.timeout(pause):
                    await self._added.wait()
                pause = FIRST
                continue
            except TimeoutError:
                pass
            news = False
            watches = list(self._watches)
            for first in range(0, len(watches), MANY):
                some = watches[first : first + MANY]
                try:
                    found = await self._look([f"+{w.id}" if w.live else w.id for w in some])
                except BackendUnavailable:
                    continue  # looked at again; the callers' own deadlines hold
                except Exception as error:  # noqa: BLE001 - it is each caller's
                    for watch in some:
                        watch.fail(error)
                    continue
                for watch, status in zip(some, found, strict=True):
                    news |= watch.tell(status)
            pause = FIRST if news else min(pause * 1.5, LAST)
