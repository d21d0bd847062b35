"""A process in the memory of a host, with what runs for it outside the fold: steps, timers, a `restart` body."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from regrow_protocol import messages as m
from regrow_protocol.bus import Received

from ..process import Process
from .entering import muted

if TYPE_CHECKING:
    from .bodies import BodyScope

Waiting: TypeAlias = tuple[int, list[bytes], Callable[[], None]]
"""(input, large values, publish) of an output."""

_numbers = itertools.count(1)


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
        number: of this object, in this interpreter.
        process: the fold.
        incarnation: that what runs here belongs to.
        queue: inputs that came while it was being read, or waited for a value; None when it takes inputs at once.
        unacked: outputs that are not acknowledged yet.
        used: when it took its last input (event loop's time).
        timers: armed ones, by operation number.
        steps: running ones, by operation number.
        local_due: when the timers are due that are not in the stream, by operation number.
        distant: timers that become scheduled messages, being due more than a few seconds after they were set.
        outbox: outputs that wait for a large value to be stored.
        known: (incarnation, n) of its last recorded event when it was read: earlier ones are not published again.
        held: its steps and `restart` body do not begin yet, for the last owner of the partition may have died of them.
        claim: (incarnation, who) that may run the `restart` body: the first claim in the inbox.
        claimed: the last incarnation that was claimed here.
        body: its `restart` body, while it runs here.
        past: with `force_replay`, all that it was given and what it sent.
    """

    __slots__ = (
        "body", "claim", "claimed", "distant", "held", "incarnation", "known", "local_due", "number", "outbox", "past",
        "pid", "process", "queue", "steps", "timers", "unacked", "used",
    )  # fmt: skip

    def __init__(self, pid: str, process: Process) -> None:
        self.number = next(_numbers)
        self.pid = pid
        self.process = process
        self.incarnation = -1
        self.queue: deque[Received] | None = None
        self.unacked = 0
        self.used = 0.0
        self.timers: dict[int, asyncio.TimerHandle] = {}
        self.local_due: dict[int, float] = {}
        self.distant: set[int] = set()
        self.steps: dict[int, asyncio.Task[None]] = {}
        self.outbox: deque[Waiting] | None = None
        self.known: tuple[int, int] | None = None
        self.held = False
        self.claim: tuple[int, str] | None = None
        self.claimed = -1
        self.body: BodyScope | None = None
        self.past: list[Past] = []

    @property
    def busy(self) -> bool:
        """It does something that the stream does not hold."""
        if self.steps or self.local_due or self.queue is not None or self.held:
            return True
        process = self.process
        return process.restart is not None and process.restart.running and not process.ended

    @property
    def at_rest(self) -> bool:
        """It may leave memory: whatever goes on is in the stream."""
        return self.unacked == 0 and self.outbox is None and not self.busy and self.process.quiescent

    def drop_local(self, n: int) -> None:
        """Operation `n` has its outcome, or nobody waits for it any more."""
        if (timer := self.timers.pop(n, None)) is not None:
            timer.cancel()
        self.local_due.pop(n, None)
        self.distant.discard(n)
        if (task := self.steps.pop(n, None)) is not None:
            task.cancel()

    def drop_all(self) -> None:
        """Nothing of this incarnation goes on."""
        for n in [*self.steps, *self.timers, *self.local_due, *self.distant]:
            self.drop_local(n)
        if self.body is not None:
            self.body.abandon()
            self.body = None

    def leave(self) -> None:
        """Leave memory."""
        self.drop_all()
        self.process.leave()


def fold_anew(resident: Resident) -> Process:
    """Replace a process by a fold of its past; raises AssertionError when it sends anything else than it did."""
    old = resident.process
    process = Process(old.env, old.id)
    process.moved = old.moved
    process.replaying = True
    with muted():
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
