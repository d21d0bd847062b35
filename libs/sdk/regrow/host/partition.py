"""One partition of one build on this host: reads its inboxes, folds its processes, publishes what they send.

Inputs are routed in stream order from the cursor's floor on: to a process in memory at once, to one that is not after
it has been read from its subject (`activation`). A process that diverges, hangs or sends what is refused is parked as
stuck and holds up nobody (`turns`). After an unclean end of the last owner, what it may have seen is taken with care
(`recovery`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec
from regrow_protocol import ids, subjects, values
from regrow_protocol import messages as m
from regrow_protocol.bus import Reader, Received
from regrow_protocol.errors import RegrowError, Unreachable

from ..process import Process
from .activation import Activation
from .cursor import CursorKeeper, OwnershipLost
from .entering import outside_tasks
from .floor import Floor
from .inputs import BAD_INPUT, is_first, is_kind
from .local import LocalWork
from .probation import Probation
from .publishing import Publishing
from .recovery import Recovery, forgiven, is_condemned
from .resident import Resident
from .turns import SLICE, Turns
from .waiting import POLL, until

if TYPE_CHECKING:
    from .host import Host

log = logging.getLogger("regrow.host")

FOREIGN = 10_000
"""Processes of other builds that are remembered."""
LEAK_AFTER = 30.0
HANDOVER = 1.0
"""Seconds that a partition that moves to another host may take to let go."""


class Partition:
    """Make it, then `start` it; `stop` it when it is lost or the host ends.

    Attributes:
        number: of the partition.
        epoch: of the ownership.
        residents: processes in memory, by pid.
        stuck: parked processes, by pid.
        parked_at: of processes that left memory ahead of the floor, the last input applied.
        fresh: all that was in the stream at the take-over has arrived: what comes now was seen by no earlier owner.
        recovery: while inputs are taken with care.
        probation: while it is not known whether steps and bodies end this host.
        handing_over: another host waits for it: no step begins any more.
        stopping: it is let go: nothing counts any more.
    """

    def __init__(self, host: Host, number: int, epoch: int) -> None:
        self._host = host
        self.number = number
        self.epoch = epoch
        self.residents: dict[str, Resident] = {}
        self.stuck: dict[str, m.Stuck] = {}
        self.parked_at: dict[str, int] = {}
        self.floor = Floor(0)
        self.fresh = False
        self.recovery: Recovery | None = None
        self.probation: Probation | None = None
        self.handing_over = False
        self.stopping = False
        self.keeper = CursorKeeper(host.bus, host.env.app, host.env.build, number, epoch)
        self.publishing = Publishing(self, host)
        self.turns = Turns(self, host)
        self.local = LocalWork(self, host)
        self.activation = Activation(self, host)
        self._foreign: OrderedDict[str, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reader: Reader | None = None
        self._left = False
        self._stopped: asyncio.Task[None] | None = None
        self._cursor_lock = asyncio.Lock()
        self._leak_since: tuple[int, float] | None = None

    # Taking over and letting go ---------------------------------------------------------------------------------------

    async def start(self, since: int) -> None:
        """Take the partition over from where its last owner was. Raises OwnershipLost."""
        left = await self.keeper.take_over(since)
        self.floor = Floor(left.floor)
        # What the last owner was still looking for, nobody finds any more.
        self.stuck = {pid: msgspec.structs.replace(stuck, vague=False) for pid, stuck in left.stuck.items()}
        survived = left.clean or left.epoch == self.epoch  # the same host begins again
        if not survived and (suspect := left.suspect) is not None and is_condemned(suspect):
            reason = f"input {suspect.seq or 'up to ' + str(left.floor)} took down every host that tried it"
            log.error("process %s is parked: %s; `regrow resume %s` tries again", suspect.pid, reason, suspect.pid)
            self.stuck.setdefault(suspect.pid, m.Stuck(suspect.seq or left.floor + 1, "host-killer", reason))
        busy = [pid for pid in left.busy if pid not in self.stuck]
        if not survived:
            self.recovery = Recovery(self, self._host, left.suspect, busy)
        self._reader = self._host.bus.read(
            self._host.inbox_stream,
            subjects.inbox_partition(self._host.env.app, self.number),
            left.floor + 1,
            self._arrived,
            ready=self._host.may_read,
        )
        self.spawn(self._follow(self._reader))
        if self.recovery is not None:
            self.spawn(self._recover(self.recovery))
        else:
            for pid in busy:
                self.activation.wake(pid)
        self.spawn(self._keep_cursor())
        self.spawn(self._park_resting())

    async def _follow(self, reader: Reader) -> None:
        try:
            await reader.caught_up
        except Unreachable:
            return  # reading was stopped
        self.fresh = True
        if self.recovery is not None:
            self.recovery.caught_up()

    async def _recover(self, recovery: Recovery) -> None:
        await recovery.run()
        self.probation = Probation(self, self._host)
        await self.probation.run(recovery.survived, recovery.left)

    async def caught_up(self) -> None:
        """All that was in the stream at the take-over has been applied."""
        assert self._reader is not None
        await self._reader.caught_up
        await until(lambda: self.stopping or not (self.floor.pending or self.recovery))

    @property
    def at_rest(self) -> bool:
        """All that has arrived is applied and acknowledged, and no process is being read."""
        return not self.floor.pending and all(
            r.queue is None and not r.unacked and not r.steps for r in self.residents.values()
        )

    async def settle(self, deadline: float) -> None:
        """Read no more; wait for what is queued or unacknowledged, until `deadline` (event loop's time) at most."""
        if self._reader is not None:
            await self._reader.stop()
        await until(lambda: self.stopping or not self._under_way(), deadline)

    def _under_way(self) -> bool:
        return self.publishing.sending > 0 or any(
            r.unacked or r.outbox or r.queue is not None for r in self.residents.values()
        )

    async def hand_over(self) -> None:
        """Let go to another host that waits for it: steps in hand finish within the drain time, no others begin."""
        self.handing_over = True
        await until(lambda: self.stopping or not self.local.begun, self._host.loop_time() + self._host.options.drain)
        await self.settle(self._host.loop_time() + HANDOVER)
        await self.stop(write=True)

    async def stop(self, *, write: bool = False) -> None:
        """Let go; with `write` after noting in the cursor how far it is. Returns when nothing of it runs any more."""
        if self._stopped is None:
            self._stopped = asyncio.get_running_loop().create_task(self._stop(write=write))
        await asyncio.shield(self._stopped)

    async def _stop(self, *, write: bool) -> None:
        self.stopping = True
        if self._reader is not None:
            await self._reader.stop()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        if write:
            self._left = True
            try:
                async with self._cursor_lock:
                    await self.keeper.write(self._cursor())
            except OwnershipLost:
                log.info("partition %d has a new owner already", self.number)
            except RegrowError as error:
                log.warning("partition %d: the cursor was not written: %s", self.number, error)
        withdrawn = self.publishing.withdraw()
        if withdrawn:
            log.info(
                "partition %d is let go with %d messages unsent: its next owner sends them", self.number, withdrawn
            )
        for resident in list(self.residents.values()):
            self.turns.leave(resident)
        self.residents.clear()

    def spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        """Run something for as long as the partition is owned; when it fails the partition begins again."""
        task = asyncio.get_running_loop().create_task(self._guard(coro))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, coro: Coroutine[Any, Any, None]) -> None:
        try:
            await coro
        except OwnershipLost as error:
            log.info("%s", error)
            self._host.partition_lost(self)
        except RegrowError as error:
            if not self.stopping:
                log.error("partition %d: %s", self.number, error)  # noqa: TRY400 - a known error
                self._host.partition_failed(self)
        except Exception:
            if not self.stopping:
                log.exception("partition %d failed", self.number)
                self._host.partition_failed(self)

    # Routing ----------------------------------------------------------------------------------------------------------

    def _arrived(self, batch: list[Received]) -> None:
        floor = self.floor
        for received in batch:
            if received.seq > floor.read:
                floor.read = received.seq
            if self.recovery is not None:
                self.recovery.hold(received)
            else:
                self.take(received)

    def take(self, received: Received) -> None:
        """Route an input; whatever goes wrong concerns its process alone."""
        try:
            self.route(received)
        except Exception as error:
            log.exception("input %d on %s", received.seq, received.subject)
            pid = subjects.pid_of(received.subject)
            resident = self.residents.get(pid) or Resident(pid, Process(self._host.env, pid))
            self.turns.stick(resident, received.seq, "host-failed", repr(error))

    def route(self, received: Received) -> None:
        """Hand an input to its process."""
        pid = received.subject.rsplit(".", 1)[1]
        resident = self.residents.get(pid)
        if resident is not None:
            if resident.queue is None:
                self.turns.take(resident, received)
            else:
                self.floor.open(received.seq)
                resident.queue.append(received)
            return
        if pid in self.stuck:
            self._route_to_stuck(pid, received)
        elif pid in self._foreign and not is_kind(received, "upgrade"):
            self._foreign.move_to_end(pid)
        elif ids.partition_of(pid, self._host.env.partitions) != self.number:
            self._host.dead_letter(received, f"process {pid} is not of partition {self.number}")
        elif (message := self.decode(received)) is not None:
            self._foreign.pop(pid, None)
            if isinstance(message, m.Start) and self.fresh and self.recovery is None and is_first(received):
                self._first(pid, message, received)
            else:
                self.activation.load(pid, received)

    def _first(self, pid: str, start: m.Start, received: Received) -> None:
        """A process begins: nothing older can be in its subject."""
        if start.build != self._host.env.build:
            self.mark_foreign(pid)
        elif values.has_blob(received.data):
            self.turns.take(self.reside(pid), received)
        else:
            self.turns.apply(self.reside(pid), start, received.seq, received.time)

    def _route_to_stuck(self, pid: str, received: Received) -> None:
        if is_kind(received, "resume"):
            if self.recovery is None or not self.recovery.ignores(pid):
                log.info("process %s is taken up again", pid)
                self.activation.load(pid, received)
        elif is_kind(received, "upgrade"):
            self.activation.load(pid, received)
        else:
            self.decode(received)  # what does not decode is put aside, here too

    def reside(self, pid: str) -> Resident:
        """A process in memory that has applied nothing yet."""
        resident = self.residents[pid] = Resident(pid, Process(self._host.env, pid))
        resident.held = self.recovery is not None
        return resident

    def mark_foreign(self, pid: str) -> None:
        """Another build folds it."""
        self._foreign[pid] = None
        if len(self._foreign) > FOREIGN:
            self._foreign.popitem(last=False)

    def decode(self, received: Received) -> m.Input | None:
        """The input, or None after it was put aside."""
        try:
            return m.decode_input(received.data)
        except BAD_INPUT as error:
            self._host.dead_letter(received, f"it does not decode: {error}")
            return None

    # The cursor -------------------------------------------------------------------------------------------------------

    def _cursor(self) -> m.Cursor:
        busy = {pid for pid, resident in self.residents.items() if resident.busy}
        suspect = None
        if self.recovery is not None:
            busy.update(self.recovery.to_wake)
            suspect = self.recovery.note if self._left else self.recovery.suspect
        elif self.probation is not None:
            suspect = forgiven(self.probation.suspect) if self._left else self.probation.suspect
        on_trial = self.recovery is not None or self.probation is not None
        return m.Cursor(
            self.epoch,
            self.floor.value,
            sorted(busy),
            dict(self.stuck),
            clean=self._left and not on_trial,
            suspect=suspect,
            released=self._left and on_trial,
        )

    async def write_cursor(self) -> None:
        """Write it, however long the store takes. Raises OwnershipLost."""
        while True:
            try:
                async with self._cursor_lock:
                    await self.keeper.write(self._cursor())
            except Unreachable as error:
                log.warning("the cursor of partition %d waits: %s", self.number, error)
                await asyncio.sleep(POLL)
            else:
                return

    async def _keep_cursor(self) -> None:
        while not self.stopping:
            await asyncio.sleep(self._host.options.cursor_every)
            await self._host.allowed()
            await self.write_cursor()
            if self.parked_at:
                floor = self.floor.value
                self.parked_at = {pid: seq for pid, seq in self.parked_at.items() if seq > floor}
            self._look_for_leak()

    def _look_for_leak(self) -> None:
        """An input that stays open although nothing is under way would hold the floor back for ever."""
        oldest = self.floor.oldest
        under_way = self.recovery is not None or any(r.unacked or r.queue is not None for r in self.residents.values())
        if oldest is None or under_way or not self._host.all_acknowledged():
            self._leak_since = None
            return
        now = self._host.loop_time()
        if self._leak_since is None or self._leak_since[0] != oldest:
            self._leak_since = (oldest, now)
        elif now - self._leak_since[1] > LEAK_AFTER:
            log.error(
                "partition %d: input %d is open though nothing is under way: it begins again", self.number, oldest
            )
            self._host.partition_failed(self)

    # Leaving memory ---------------------------------------------------------------------------------------------------

    async def _park_resting(self) -> None:
        """Processes at rest leave memory, a few at a time."""
        options = self._host.options
        while not self.stopping:
            await asyncio.sleep(min(0.5, options.park_after / 2) if options.park_after else 0.05)
            now = self._host.loop_time()
            resting = [
                r
                for r in self.residents.values()
                if (r.process.ended or now - r.used >= options.park_after) and now - r.used >= 0.2 and r.at_rest
            ]
            for at in range(0, len(resting), SLICE):
                await outside_tasks(self._park, resting[at : at + SLICE])
            self._host.memory.left(len(resting))

    def _park(self, residents: list[Resident]) -> None:
        floor = self.floor.value
        for resident in residents:
            if self.residents.get(resident.pid) is resident and resident.at_rest:
                del self.residents[resident.pid]
                if resident.process.applied > floor:
                    self.parked_at[resident.pid] = resident.process.applied
                self.turns.leave(resident)
