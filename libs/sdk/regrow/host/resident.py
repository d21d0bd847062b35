"""A process in the memory of a host, with what runs for it outside the fold: steps, timers, a `restart` body."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from regrow_protocol import messages as m
from regrow_protocol.bus import Received

from ..process import Process


@dataclass(slots=True)
class Past:
    """An input that was applied, and what was sent in that turn."""

    message: m.Input
    seq: int
    time: float
    sent: list[bytes]


class Resident:
    """One process in memory.

    Attributes:
        process: the fold.
        queue: inputs that came while it was being read, or waited for a value; None when it takes inputs at once.
        unacked: outputs that are not acknowledged yet.
        used: when it took its last input (event loop's time).
        timers: armed ones, by operation number.
        steps: running ones, by operation number.
        local_due: when its armed timers are due, by operation number.
        outbox: outputs that wait for a large value to be stored.
        body: its `restart` body, while it runs here.
        known: (incarnation, n) of its last recorded event when it was read: earlier ones are not published again.
        scheduled: when its timers that stand in the stream are due, by operation number.
        past: with `force_replay`, all that it was given and what it sent.
    """

    __slots__ = (
        "body",
        "known",
        "local_due",
        "outbox",
        "past",
        "pid",
        "process",
        "queue",
        "scheduled",
        "steps",
        "timers",
        "unacked",
        "used",
    )

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
        self.known: tuple[int, int] | None = None
        self.scheduled: dict[int, float] = {}
        self.past: list[Past] = []

    @property
    def busy(self) -> bool:
        """It does something that the stream does not hold."""
        restart = self.process.restart
        has_body = self.body is not None or (restart is not None and restart.running and not self.process.ended)
        return bool(self.steps or self.local_due or has_body)

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


def fold_anew(resident: Resident) -> Process:
    """Replace a process by a fold of its past; raises AssertionError when it sends anything else than it did."""
    old = resident.process
    process = Process(old.env, old.id)
    process.replaying = True
    for past in resident.past:
        process.apply(past.message, past.seq, past.time)
        sent = [m.encode(output.message) for output in process.take_outputs()]
        assert sent == past.sent, f"{process} sent {sent} in a replay of input {past.seq}, first {past.sent}"
        process.new_local.clear()
        process.dropped_local.clear()
        if process.restart is not None:
            process.restart.deliveries.clear()
    process.replaying = False
    assert set(process.steps) == set(old.steps), f"{process} runs other steps in a replay"
    assert set(process.timers) == set(old.timers), f"{process} sets other timers in a replay"
    old.leave()
    resident.process = process
    return process
