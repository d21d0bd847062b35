"""A process in the memory of a host, with what runs for it outside the fold: steps, timers, a `restart` body."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from regrow_protocol.bus import Received

from ..process import Process


class Resident:
    """One process in memory.

    Attributes:
        process: the fold.
        queue: inputs that came while it was being read, or waited for a value; None when it takes inputs at once.
        unacked: outputs that are not acknowledged yet.
        used: when it took its last input (event loop's time).
        timers: armed ones, by operation number.
        steps: running ones, by operation number.
        outbox: outputs that wait for a large value to be stored.
        careful_until: inputs up to this one are replayed by a host that others died of.
    """

    __slots__ = ("body", "local_due", "outbox", "pid", "process", "queue", "steps", "timers", "unacked", "used")

    def __init__(self, pid: str, process: Process) -> None:
        self.pid = pid
        self.process = process
        self.queue: deque[Received] | None = None
        self.unacked = 0
        self.used = 0.0
        self.timers: dict[int, asyncio.TimerHandle] = {}
        self.local_due: dict[int, float] = {}
        self.steps: dict[int, asyncio.Task[None]] = {}
        self.outbox: list[Any] | None = None
        self.body: Any = None

    @property
    def busy(self) -> bool:
        """It does something that the stream does not hold."""
        return bool(self.steps or self.local_due or self.body is not None)

    @property
    def at_rest(self) -> bool:
        """It may leave memory: whatever goes on is in the stream."""
        return (
            self.unacked == 0
            and self.queue is None
            and self.outbox is None
            and not self.busy
            and self.process.quiescent
        )

    def drop_local(self, n: int) -> None:
        """Operation `n` has its outcome, or nobody waits for it any more."""
        if (timer := self.timers.pop(n, None)) is not None:
            timer.cancel()
        self.local_due.pop(n, None)
        if (task := self.steps.pop(n, None)) is not None:
            task.cancel()

    def leave(self) -> None:
        """Leave memory."""
        for n in [*self.steps, *self.local_due]:
            self.drop_local(n)
        if self.body is not None:
            self.body.abandon()
            self.body = None
        self.process.leave()
