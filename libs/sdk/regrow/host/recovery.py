"""Recovery of a partition whose last owner ended without a word: some turn may have taken it down, and would again.

Inputs are held and taken in slices; before a slice the cursor notes where it begins (`suspect`, one attempt). If that
host ends too, the next one takes that slice input by input, each noted before (two attempts), and only one process of
the whole host at a time; so after a third host it is known which process it was, and that is parked. The same goes for
waking the processes that were busy. Their steps and bodies begin afterwards (`probation`). What arrives after the
take-over cannot have harmed anybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from regrow_protocol import messages as m
from regrow_protocol.bus import Received
from regrow_protocol.subjects import pid_of

from .entering import outside_tasks
from .waiting import until

if TYPE_CHECKING:
    from .host import Host
    from .partition import Partition

log = logging.getLogger("regrow.host")

SLICE = 64
"""Inputs, or busy processes, that are tried together."""
ATTEMPTS = 2
"""Recovering hosts that a turn may take down; the host that it took down first makes three."""
PROBATION_ATTEMPTS = 4
"""Of a step or a `restart` body: it runs for long, so hosts that are killed for other reasons must not condemn it."""
POLL = 0.002


def is_condemned(suspect: m.Suspect | None) -> bool:
    """It has taken down as many hosts as it may."""
    if suspect is None:
        return False
    on_probation = not suspect.seq and bool(suspect.survived)
    return suspect.attempts >= (PROBATION_ATTEMPTS if on_probation else ATTEMPTS)


def forgiven(suspect: m.Suspect | None) -> m.Suspect | None:
    """What is left of a note when its host lets go by itself: this attempt has ended nobody."""
    if suspect is None or suspect.attempts <= 1:
        return None
    return msgspec.structs.replace(suspect, attempts=suspect.attempts - 1)


class Recovery:
    """Of one partition; exists until all that the last owner may have seen is applied.

    Args:
        left: what the last owner had noted.
        busy: processes to be woken.

    Attributes:
        suspect: the note that stands in the cursor.
        to_wake: processes that have not been woken yet.
    """

    def __init__(self, partition: Partition, host: Host, left: m.Suspect | None, busy: list[str]) -> None:
        self.suspect = self._inherited = left
        self.to_wake = deque(busy)
        self._left = left if not is_condemned(left) else None
        self._condemned = left.pid if left is not None and is_condemned(left) else ""
        self._partition = partition
        self._host = host
        self._held: deque[Received] = deque()
        self._until: int | None = None

    @property
    def left(self) -> m.Suspect | None:
        """What the last owner had noted, unless that was condemned."""
        return self._left

    @property
    def note(self) -> m.Suspect | None:
        """What a host that lets go by itself leaves in the cursor."""
        return self.suspect if self.suspect is self._inherited else forgiven(self.suspect)

    @property
    def survived(self) -> float | None:
        """How long the last host did after steps and bodies had begun again; None when it was not there yet."""
        left = self._left
        return left.survived if left is not None and not left.seq and left.survived else None

    def hold(self, received: Received) -> None:
        """Take an input in; its turn comes."""
        self._partition.floor.open(received.seq)
        self._held.append(received)

    def ignores(self, pid: str) -> bool:
        """A `resume` that came before the process was parked does not take it up again."""
        return pid == self._condemned

    def caught_up(self) -> None:
        """All that the last owner may have seen has arrived."""
        self._until = self._partition.floor.read

    async def run(self) -> None:
        """Wake, then apply what is held; afterwards the partition takes its inputs at once."""
        await self._wake()
        last = self._left if self._left is not None and self._left.seq else None
        while self._held or self._until is None:
            if not self._held:
                await asyncio.sleep(POLL)
                continue
            if self._until is not None and self._held[0].seq > self._until:
                break
            if last is not None and self._held[0].seq >= last.seq:
                last = None
                await self._one_by_one([(pid_of(r.subject), r.seq, self._taker(r)) for r in self._pop(SLICE, None)])
            else:
                await self._together(self._pop(SLICE, last.seq if last is not None else None))
        await outside_tasks(self._end)

    def _end(self) -> None:
        self._partition.recovery = None
        while self._held:
            self._take(self._held.popleft())

    # Busy processes ---------------------------------------------------------------------------------------------------

    async def _wake(self) -> None:
        wake = self._partition.activation.wake
        left = self._left
        exactly = left.pid if left is not None and not left.seq and not left.survived else None
        while self.to_wake:
            if exactly is not None and self.to_wake[0] >= exactly:
                exactly = None
                await self._one_by_one([(pid, 0, self._waker(pid)) for pid in list(self.to_wake)[:SLICE]])
                continue
            pids = [pid for pid in list(self.to_wake)[:SLICE] if exactly is None or pid < exactly]
            await self._note(pids[0], 0, 1)
            for pid in pids:
                wake(pid)
                self.to_wake.popleft()
            await self._folded(pids)

    def _waker(self, pid: str) -> Callable[[], None]:
        def wake() -> None:
            self._partition.activation.wake(pid)
            self.to_wake.remove(pid)

        return wake

    # Inputs -----------------------------------------------------------------------------------------------------------

    def _pop(self, most: int, before: int | None) -> list[Received]:
        part: list[Received] = []
        until = self._until
        while self._held and len(part) < most:
            seq = self._held[0].seq
            if (before is not None and seq >= before) or (until is not None and seq > until):
                break
            part.append(self._held.popleft())
        return part

    async def _together(self, part: list[Received]) -> None:
        await self._note(pid_of(part[0].subject), part[0].seq, 1)
        await outside_tasks(lambda: [self._take(received) for received in part])
        await self._folded([pid_of(received.subject) for received in part])

    def _take(self, received: Received) -> None:
        self._partition.take(received)
        self._partition.floor.close(received.seq)

    def _taker(self, received: Received) -> Callable[[], None]:
        return lambda: self._take(received)

    # Notes ------------------------------------------------------------------------------------------------------------

    async def _one_by_one(self, turns: list[tuple[str, int, Callable[[], None]]]) -> None:
        """Each noted before, and nothing else of this host at the same time: whichever ends it is known."""
        async with self._host.suspicion:
            for pid, seq, make in turns:
                await self._note(pid, seq, ATTEMPTS)
                await outside_tasks(make)
                await self._folded([pid])
            self.suspect = None
            await self._partition.write_cursor()

    async def _note(self, pid: str, seq: int, attempts: int) -> None:
        self.suspect = m.Suspect(pid, seq, attempts)
        await self._partition.write_cursor()

    async def _folded(self, pids: list[str]) -> None:
        """Wait until none of them is being read any more."""
        residents = self._partition.residents

        def so() -> bool:
            return not any((r := residents.get(pid)) is not None and r.queue is not None for pid in pids)

        await until(so, every=POLL)
