"""A turn of a body is bounded: a thread of its own names the line of one that blocks, and ends one that hangs.

After `warn_after` seconds it logs the line. After `limit` seconds it raises an exception inside the body. If even that
does not end the turn (a blocking C call) it ends the host after another `limit`, so that the other processes can move;
before that it says so to `on_fatal`. C code that never lets this thread run is ended by a limit of CPU time (`hard`),
by the kernel.

A loop that is blocked outside of turns, by an async step or a `restart` body, is told in the log, and interrupted too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

from ..errors import BodyHung

log = logging.getLogger("regrow.watchdog")

Turn = tuple[str, int]
"""(pid, input)."""

BEAT = 0.25


class Interrupted(BaseException):
    """Raised by the watchdog inside a body that hangs; no `except Exception` catches it."""


class Watchdog:
    """Watches the turns of one thread, which makes it.

    Args:
        warn_after, limit: seconds of one turn.
        hard: this program may be ended: by the watchdog, and by the kernel when the watchdog has not run for three
            limits of CPU time. Otherwise, in tests, a blocking call is waited for.
        on_fatal: called in the watchdog's thread, with the turn and a text, before the program is ended.
    """

    def __init__(
        self,
        warn_after: float = 1.0,
        limit: float = 5.0,
        *,
        hard: bool = False,
        on_fatal: Callable[[Turn, str], None] | None = None,
    ) -> None:
        self._warn_after = warn_after
        self._limit = limit
        self._hard = hard
        self._on_fatal = on_fatal
        self._turn: Turn | None = None
        self._lock = threading.Lock()
        self._raised = False
        self._line = "?"
        self._stop = threading.Event()
        self._thread_id = threading.get_ident()
        self._loop = asyncio.get_running_loop()
        self._beat_at = time.monotonic()
        self._beat_handle: asyncio.TimerHandle | None = None
        self._beat()
        self._thread = threading.Thread(target=self._watch, name="regrow-watchdog", daemon=True)
        self._thread.start()

    def enter(self, pid: str, seq: int) -> None:
        """A turn begins."""
        self._turn = (pid, seq)

    def leave(self) -> BodyHung | None:
        """The turn is over; returns the error when it was ended by force."""
        try:
            with self._lock:
                self._turn = None
                raised, self._raised = self._raised, False
                if raised:
                    # It may not have been delivered yet: take it back.
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread_id), None)
        except Interrupted:
            self._turn, self._raised, raised = None, False, True
        if not raised:
            return None
        return BodyHung(
            f"The body did not return within {self._limit:g} s; it was at {self._line}",
            hint='do blocking work in step(), or use @agent_process(resume="restart")',
        )

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._beat_handle is not None:
            self._beat_handle.cancel()
        self._thread.join(timeout=2)
        if self._hard:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        self._beat_handle = self._loop.call_later(BEAT, self._beat)

    def _watch(self) -> None:
        interval = min(0.2, self._warn_after / 4, self._limit / 4)
        before = time.monotonic()
        seen: object = None
        age = 0.0
        warned = interrupted = False
        while not self._stop.wait(interval):
            if self._hard:
                signal.setitimer(signal.ITIMER_VIRTUAL, 3 * self._limit + 1)
            # While this program was stopped this thread was too: that time is nobody's.
            now = time.monotonic()
            passed, before = min(now - before, 3 * interval), now
            turn = self._turn
            seeing = turn or self._beat_at
            if seeing != seen:
                seen, age, warned, interrupted = seeing, 0.0, False, False
                continue
            age += passed
            if age > self._warn_after and not warned:
                warned = True
                self._warn(turn, age)
            if turn is not None:
                if age > self._limit:
                    self._interrupt(turn)
                if self._hard and age > 2 * self._limit and turn is self._turn:
                    self._give_up(turn)
            elif age > self._limit + BEAT and not interrupted and self._task().startswith(("step ", "body ")):
                interrupted = True
                self._raise()

    def _task(self) -> str:
        """Name of the task that the loop runs at this moment."""
        with contextlib.suppress(RuntimeError):
            if (task := asyncio.current_task(self._loop)) is not None:
                return task.get_name()
        return ""

    def _warn(self, turn: Turn | None, age: float) -> None:
        if turn is not None:
            log.warning(
                "process %s blocks its host for %.1f s at %s: do blocking work in step(), "
                'or use @agent_process(resume="restart")',
                turn[0], age, self._where(),
            )  # fmt: skip
            return
        log.warning(
            "the host's loop is blocked for %.1f s at %s (%s): blocking work belongs in a plain function, "
            "which step() runs in a thread",
            age, self._where(), self._task() or "no task",
        )  # fmt: skip

    def _interrupt(self, turn: Turn) -> None:
        with self._lock:
            if self._turn is not turn or self._raised:
                return
            self._line = self._where()
            self._raised = True
            self._raise()

    def _raise(self) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread_id), ctypes.py_object(Interrupted))

    def _give_up(self, turn: Turn) -> None:
        text = f"the body did not return within {2 * self._limit:g} s; it was at {self._line}"
        log.critical("process %s: %s; this host ends so that others can go on", turn[0], text)
        if self._on_fatal is not None:
            try:
                self._on_fatal(turn, text)
            except Exception:
                log.exception("the end of process %s could not be noted", turn[0])
        os._exit(70)

    def _where(self) -> str:
        frame = sys._current_frames().get(self._thread_id)
        inner = [f for f in traceback.extract_stack(frame) if "/asyncio/" not in f.filename] if frame else []
        return f"{inner[-1].filename}:{inner[-1].lineno}" if inner else "?"
