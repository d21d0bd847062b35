"""Probation: after a recovery, steps and `restart` bodies that were under way when the last owner died begin again.

One of them may have been what it died of. So the cursor notes that they begin (`suspect` without an input, one
attempt), and for how long this host has survived that since. If it dies too, the next one lets them begin one at a
time, in a random order, each noted before, and waits for each as long as the last host survived, twice. A process that
was the one noted three times running, with which five hosts ended, is parked: hosts that are killed for other reasons
hardly ever meet the same one so often.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from regrow_protocol import messages as m

from .entering import outside_tasks
from .resident import Resident
from .waiting import POLL, until

if TYPE_CHECKING:
    from .host import Host
    from .partition import Partition

log = logging.getLogger("regrow.host")

LENGTH = 10.0
"""Seconds after which a host that dies has died of something else."""
LEAST = 0.5
"""Seconds that a process is given at least where one is tried at a time."""


class Probation:
    """Of one partition.

    Attributes:
        suspect: the note that stands in the cursor.
    """

    def __init__(self, partition: Partition, host: Host) -> None:
        self.suspect: m.Suspect | None = None
        self._partition = partition
        self._host = host

    async def run(self, survived: float | None, left: m.Suspect | None) -> None:
        """Let what is held begin.

        Args:
            left: what the last owner had noted.
            survived: how long the last host did after that, in seconds; None when it was not there yet.
        """
        held = [resident for resident in self._partition.residents.values() if resident.held]
        idle = [resident for resident in held if not _has_work(resident)]
        await outside_tasks(self._release, idle)
        held = [resident for resident in held if resident.held]
        random.shuffle(held)
        if held and survived is None:
            await self._together(held)
        elif held and survived is not None:
            log.warning("partition %d: %d processes begin one at a time", self._partition.number, len(held))
            for resident in held:
                await until(self._turns_are_done)
                again = left is not None and left.pid == resident.pid and left.attempts > 1
                attempts = left.attempts + 1 if left is not None and again else 2
                await self._alone(resident, attempts, survived)
        self._partition.probation = None
        await self._partition.write_cursor()

    def _turns_are_done(self) -> bool:
        """In every partition: they are quickly done, and must not wait for steps."""
        return all(partition.recovery is None for partition in self._host.partitions.values())

    def _release(self, residents: list[Resident]) -> None:
        for resident in residents:
            if self._partition.residents.get(resident.pid) is resident:
                self._partition.local.release(resident)

    async def _together(self, held: list[Resident]) -> None:
        await self._note(held[0].pid, 1)
        await outside_tasks(self._release, held)
        began = self._host.loop_time()
        begun = [(resident, _work_of(resident)) for resident in held]
        while (survived := self._host.loop_time() - began) < LENGTH and any(_goes_on(*each) for each in begun):
            self.suspect = m.Suspect(held[0].pid, 0, 1, survived)  # the cursor is written soon
            await asyncio.sleep(POLL)

    async def _alone(self, resident: Resident, attempts: int, survived: float) -> None:
        async with self._host.suspicion:
            await self._note(resident.pid, attempts, survived)
            await outside_tasks(self._release, [resident])
            deadline = self._host.loop_time() + LEAST + 2 * survived
            work = _work_of(resident)
            await until(lambda: not _goes_on(resident, work), deadline)
            self.suspect = None
            await self._partition.write_cursor()

    async def _note(self, pid: str, attempts: int, survived: float = POLL) -> None:
        self.suspect = m.Suspect(pid, 0, attempts, max(survived, POLL))
        await self._partition.write_cursor()


def _has_work(resident: Resident) -> bool:
    restart = resident.process.restart
    return bool(resident.process.steps) or (restart is not None and restart.running and not resident.process.ended)


def _work_of(resident: Resident) -> frozenset[int]:
    """The steps that have begun; empty for a `restart` body."""
    return frozenset(resident.steps)


def _goes_on(resident: Resident, work: frozenset[int]) -> bool:
    process = resident.process
    if process.gone or process.ended:
        return False
    return bool(work & resident.steps.keys()) or (process.restart is not None and process.restart.running)
