"""A turn of a body is bounded: a thread of its own names the line of one that blocks, and ends one that hangs.

After `warn_after` seconds it logs the line. After `limit` seconds it raises BodyHung inside the body; if even that does not
end the turn (a blocking C call), it ends the host after another `limit`, so that the other processes can move.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from ..errors import BodyHung

log = logging.getLogger("regrow.watchdog")


class Watchdog:
    """Watches the turns of one thread."""

    def __init__(
        self, warn_after: float = 1.0, limit: float = 5.0, *, on_fatal: Callable[[str], None] | None = None
    ) -> None:
        self._warn_after = warn_after
        self._limit = limit
        self._on_fatal = on_fatal
        self._turn: tuple[str, int, float] | None = None
        self._lock = threading.Lock()
        self._raised = False
        self._line = "?"
        self._stop = threading.Event()
        self._thread_id = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="regrow-watchdog", daemon=True)
        self._thread.start()

    @property
    def turn(self) -> tuple[str, int, float] | None:
        """(pid, input, start) of the turn under way."""
        return self._turn

    def enter(self, pid: str, seq: int) -> None:
        """A turn begins, on the thread that made this watchdog."""
        self._turn = (pid, seq, time.monotonic())

    def leave(self) -> BodyHung | None:
        """The turn is over; returns the error when it was ended by force."""
        with self._lock:
            self._turn = None
            if not self._raised:
                return None
            self._raised = False
            # It may not have been delivered yet: take it back.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread_id), None)
            return BodyHung(
                f"The body did not return within {self._limit:g} s; it was at {self._line}",
                hint='do blocking work in step(), or use @agent_process(resume="restart")',
            )

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=2)

    def _watch(self) -> None:
        warned: tuple[str, int, float] | None = None
        while not self._stop.wait(min(0.2, self._warn_after / 4)):
            turn = self._turn
            if turn is None:
                continue
            age = time.monotonic() - turn[2]
            if age > self._warn_after and warned is not turn:
                warned = turn
                log.warning(
                    "process %s blocks its host for %.1f s at %s: do blocking work in step(), "
                    'or use @agent_process(resume="restart")',
                    turn[0], age, self._where(),
                )  # fmt: skip
            if age > self._limit:
                self._interrupt(turn)
            if age > 2 * self._limit and turn is self._turn:
                self._give_up(turn)

    def _interrupt(self, turn: tuple[str, int, float]) -> None:
        with self._lock:
            if self._turn is not turn or self._raised:
                return
            self._line = self._where()
            self._raised = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread_id), ctypes.py_object(_Interrupted))

    def _give_up(self, turn: tuple[str, int, float]) -> None:
        text = f"process {turn[0]} does not return from {self._line}: this host ends so that others can go on"
        log.critical(text)
        if self._on_fatal is not None:
            self._on_fatal(text)
        os._exit(70)

    def _where(self) -> str:
        frame = sys._current_frames().get(self._thread_id)
        inner = [f for f in traceback.extract_stack(frame) if "/asyncio/" not in f.filename] if frame else []
        return f"{inner[-1].filename}:{inner[-1].lineno}" if inner else "?"


class _Interrupted(BaseException):
    """Raised by the watchdog inside a body that hangs; no `except Exception` catches it."""
