"""One partition of one build on this host: reads its inboxes, folds its processes, publishes what they send.

Inputs are routed in stream order from the cursor's floor on. A process that is not in memory is read from its subject first.
Outputs of inputs up to the floor are suppressed; later ones go out again under their ids. A process that diverges, hangs or
sends what is refused is parked as stuck and holds up nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import logging
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
from regrow_protocol import ids, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import PubAck, Received, ValueMissing
from regrow_protocol.errors import RegrowError, WrongRevision

from .. import values
from ..operations import Env, Output
from ..process import Diverged, Process
from .cursor import CursorKeeper, OwnershipLost
from .floor import Floor
from .local import LocalWork
from .resident import Past, Resident, fold_anew

if TYPE_CHECKING:
    from .host import Host

log = logging.getLogger("regrow.host")

FIRST = {"Nats-Expected-Last-Subject-Sequence": "0"}
"""A first `start` is stored only as the first message of its subject: whoever reads it need not look for an older one."""
_IS_FIRST = b"Nats-Expected-Last-Subject-Sequence: 0\r\n"
_KIND_WITHIN = 40
"""Bytes at the beginning of an input that hold its kind, however it was formatted."""
_SLICE = 200


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


_NOWHERE = _Nowhere()
ATTEMPTS = 2
"""Recovering hosts that a turn may take down before its process is parked; the first one it took makes three."""

Recorded: TypeAlias = tuple[m.Input, Received]
_LOADS = 64


class Partition:
    """Make it, then `start` it; `stop` it when it is lost or the host ends.

    Attributes:
        number: of the partition.
        epoch: of the ownership.
        residents: processes in memory, by pid.
        stuck: parked processes, by pid.
    """

    def __init__(self, host: Host, number: int, epoch: int) -> None:
        self._host = host
        self._bus = host.bus
        self._env: Env = host.env
        self.number = number
        self.epoch = epoch
        self.residents: dict[str, Resident] = {}
        self.stuck: dict[str, m.Stuck] = {}
        self.inputs = 0
        self.floor = Floor(0)
        self.local = LocalWork(self, host)
        self._stream = host.inbox_stream
        self._inbox = f"regrow.inbox.{subjects.token(self._env.app)}."
        self._event = f"regrow.event.{subjects.token(self._env.app)}."
        self._keeper = CursorKeeper(self._bus, self._env.app, self._env.build, number, epoch)
        self._foreign: OrderedDict[str, None] = OrderedDict()
        self._parked_at: dict[str, int] = {}
        self._loads = asyncio.Semaphore(_LOADS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._reader: Any = None
        self._stopped = False
        self._careful: deque[Received] | None = None
        self._suspect: m.Suspect | None = None
        self._cursor_lock = asyncio.Lock()

    # Taking over and letting go -----------------------------------------------------------------------------------------

    async def start(self, since: int) -> None:
        """Take the partition over from where its last owner was. Raises OwnershipLost."""
        left = await self._keeper.take_over(since)
        self.floor = Floor(left.floor)
        self.stuck = dict(left.stuck)
        if (suspect := left.suspect) is not None and suspect.attempts >= ATTEMPTS and suspect.pid not in self.stuck:
            reason = f"its turn at input {suspect.seq} took down every host that tried it"
            log.error("process %s is parked: %s", suspect.pid, reason)
            self.stuck[suspect.pid] = m.Stuck(suspect.seq, "host-killer", reason)
        self._suspect = suspect
        busy = [pid for pid in left.busy if pid not in self.stuck]
        if left.clean:
            for pid in busy:
                self._wake(pid)
        else:
            self._careful = deque()
            self.spawn(self._pump_carefully(busy))
        self._reader = self._bus.read(
            self._stream,
            subjects.inbox_partition(self._env.app, self.number),
            left.floor + 1,
            self._arrived,
            ready=self._host.may_read,
        )
        self.spawn(self._keep_cursor())
        self.spawn(self._park_resting())

    async def caught_up(self) -> None:
        """All that was in the stream at the take-over has been applied."""
        await self._reader.caught_up
        while self.floor.pending and not self._stopped:
            await asyncio.sleep(0.01)

    @property
    def at_rest(self) -> bool:
        """All that has arrived is applied and acknowledged, and no process is being read."""
        return not self.floor.pending and all(
            r.queue is None and not r.unacked and not r.steps for r in self.residents.values()
        )

    async def stop(self, *, write: bool = False) -> None:
        """Let go; with `write` after noting in the cursor how far it is."""
        if self._stopped:
            return
        if self._reader is not None:
            await self._reader.stop()
        if write:
            try:
                await self._write_cursor(left=True)
            except RegrowError as error:
                log.warning("partition %d: the cursor was not written: %s", self.number, error)
        self._stopped = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        for resident in list(self.residents.values()):
            resident.leave()
        self.residents.clear()

    async def settle(self, timeout: float) -> None:
        """Read no more; wait for running steps and unacknowledged outputs, `timeout` seconds at most."""
        if self._reader is not None:
            await self._reader.stop()
        deadline = asyncio.get_running_loop().time() + timeout
        while asyncio.get_running_loop().time() < deadline:
            if not any(r.steps or r.unacked or r.queue is not None for r in self.residents.values()):
                return
            await asyncio.sleep(0.01)

    def spawn(self, coro: Any) -> None:
        """Run something for as long as the partition is owned; if it fails, the partition begins again."""
        task = asyncio.get_running_loop().create_task(self._guard(coro))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, coro: Any) -> None:
        try:
            await coro
        except OwnershipLost as error:
            log.info("%s", error)
            self._host.partition_lost(self)
        except RegrowError as error:
            if not self._stopped:
                log.error("partition %d: %s", self.number, error)  # noqa: TRY400 - a known error
                self._host.partition_failed(self)
        except Exception:
            log.exception("partition %d failed", self.number)
            self._host.partition_failed(self)

    # Routing ------------------------------------------------------------------------------------------------------------

    def _arrived(self, batch: list[Received]) -> None:
        for received in batch:
            self.floor.read = max(self.floor.read, received.seq)
            if self._careful is not None:
                self.floor.open(received.seq)
                self._careful.append(received)
            else:
                self._route_safely(received)

    def _route_safely(self, received: Received) -> None:
        """One bad message blocks nobody: what no rule foresaw parks its process."""
        try:
            self._route(received)
        except Exception as error:
            log.exception("input %d on %s", received.seq, received.subject)
            pid = received.subject.rsplit(".", 1)[1]
            resident = self.residents.get(pid)
            if resident is not None:
                self._stick(resident, received.seq, "fold-failed", repr(error))
            else:
                self._host.dead_letter(received, repr(error))

    def _route(self, received: Received) -> None:
        pid = received.subject.rsplit(".", 1)[1]
        resident = self.residents.get(pid)
        if resident is not None and resident.queue is None:
            self._take(resident, received)
            return
        if resident is not None:
            self.floor.open(received.seq)
            assert resident.queue is not None
            resident.queue.append(received)
            return
        if pid in self.stuck:
            if b'"resume"' in received.data[:_KIND_WITHIN]:
                log.info("process %s is taken up again", pid)
                self._load(pid, received)
            return
        if pid in self._foreign and b'"upgrade"' not in received.data[:_KIND_WITHIN]:
            self._foreign.move_to_end(pid)
            return
        if self._careful is None and received.raw_headers is not None and _IS_FIRST in received.raw_headers:
            self._first(pid, received)
            return
        self._load(pid, received)

    def _first(self, pid: str, received: Received) -> None:
        """A process begins: nothing older can be in its subject."""
        message = self._decode(received)
        if not isinstance(message, m.Start):
            if message is not None:
                self._load(pid, received)
            return
        if message.build != self._env.build:
            self._mark_foreign(pid)
            return
        self._take(self._reside(pid), received)

    def _reside(self, pid: str) -> Resident:
        resident = self.residents[pid] = Resident(pid, Process(self._env, pid))
        return resident

    def _mark_foreign(self, pid: str) -> None:
        self._foreign[pid] = None
        if len(self._foreign) > 10_000:
            self._foreign.popitem(last=False)

    def _decode(self, received: Received) -> m.Input | None:
        try:
            return m.decode_input(received.data)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            self._host.dead_letter(received, f"it does not decode: {error}")
            return None

    def _take(self, resident: Resident, received: Received) -> None:
        """Apply an input to a process in memory, or queue it behind what it waits for."""
        if received.seq <= resident.process.applied:
            return
        if values.has_blob(received.data):
            self.floor.open(received.seq)
            resident.queue = deque([received])
            self.spawn(self._work_off(resident))
            return
        message = self._decode(received)
        if message is not None:
            self._apply(resident, message, received.seq, received.time)

    async def _work_off(self, resident: Resident) -> None:
        """Apply what is queued, one after the other, with their large values; then the process takes inputs at once again."""
        queue = resident.queue
        while queue:
            received = queue.popleft()
            try:
                if received.seq > resident.process.applied and self.residents.get(resident.pid) is resident:
                    message = self._decode(received)
                    if message is not None:
                        if values.has_blob(received.data):
                            message = await values.inflate(message, self._bus.get_value)
                        await _outside_tasks(self._apply, resident, message, received.seq, received.time)
            except ValueMissing as error:
                self._stick(resident, received.seq, "value-missing", str(error))
            finally:
                self.floor.close(received.seq)
        resident.queue = None

    # Turns --------------------------------------------------------------------------------------------------------------

    def _apply(self, resident: Resident, message: m.Input, seq: int, time: float) -> None:
        process = resident.process
        watchdog = self._host.watchdog
        self.inputs += 1
        resident.used = self._host.loop_time()
        if self._host.options.force_replay:
            process = fold_anew(resident)
        watchdog.enter(process.pid, seq)
        hung = None
        error: BaseException | None = None
        try:
            process.apply(message, seq, time)
        except Diverged as diverged:
            error = diverged
        except BaseException as caught:  # noqa: BLE001 - a defect of one process must not end its neighbours
            error = caught
        finally:
            hung = watchdog.leave()
        if hung is not None:
            self._stick(resident, seq, hung.code, str(hung))
            return
        if isinstance(error, Diverged):
            self.spawn(self._explain(resident, error))
            self._stick(resident, seq, "nondeterminism", str(error.explain(process.pid)))
            return
        if error is not None:
            log.error("process %s failed in its fold", process.pid, exc_info=error)
            self._stick(resident, seq, "fold-failed", repr(error))
            return
        if self._host.options.force_replay:
            resident.past.append(Past(message, seq, time, [m.encode(o.message) for o in process.outputs]))
        try:
            if process.outputs:
                self._publish(resident, seq, process.take_outputs())
            if process.new_local or process.dropped_local or process.restart is not None:
                self.local.attend(resident, seq)
        except (RegrowError, OverflowError, ValueError) as refused:
            self._stick(resident, seq, "output-refused", f"what it sent cannot be sent: {refused}")
            return
        if process.build != self._env.build and process.start is not None:
            self._hand_over(resident)

    def _hand_over(self, resident: Resident) -> None:
        """Another build folds it from here on."""
        log.info("process %s moves to build %s", resident.pid, resident.process.build)
        self.residents.pop(resident.pid, None)
        resident.leave()
        self._mark_foreign(resident.pid)

    def _stick(self, resident: Resident, seq: int, code: str, reason: str) -> None:
        log.error(
            "process %s is parked at input %d: %s; `regrow resume %s` takes it up again",
            resident.pid,
            seq,
            reason,
            resident.pid,
        )
        self._park_as_stuck(resident.pid, m.Stuck(seq, code, reason))
        self.residents.pop(resident.pid, None)
        resident.leave()

    def _park_as_stuck(self, pid: str, stuck: m.Stuck) -> None:
        """Note it for the cursor, whose size is limited: of very many only the code is kept."""
        limit = 600 if len(self.stuck) < 500 else 0
        self.stuck[pid] = msgspec.structs.replace(stuck, reason=stuck.reason[:limit])

    async def _explain(self, resident: Resident, diverged: Diverged) -> None:
        """Fold it again with a trace of its operations, so that the error names the line."""
        try:
            history = await self._bus.history(self._stream, self._subject(resident.pid), 1, diverged.seq)
            explained = await _outside_tasks(explain_divergence, self._env, resident.pid, history)
        except Exception:
            log.exception("the divergence of %s could not be traced", resident.pid)
            return
        if explained is not None and resident.pid in self.stuck:
            self._park_as_stuck(resident.pid, m.Stuck(diverged.seq, "nondeterminism", explained))
            log.error("%s", explained)

    # Publishing -----------------------------------------------------------------------------------------------------------

    def _subject(self, pid: str) -> str:
        return f"{self._inbox}{ids.partition_of(pid, self._env.partitions)}.{pid}"

    def _publish(self, resident: Resident, seq: int, outputs: list[Output]) -> None:
        prefix = f"{resident.pid}.{resident.process.incarnation}."
        lead = resident.process.lead
        known = resident.known
        for output in outputs:
            message = output.message
            if known is not None and output.to == "event" and (resident.process.incarnation, output.n) <= known:
                continue
            if lead is not None and isinstance(message, m.Message) and message.clock is None:
                message = msgspec.structs.replace(message, clock=lead)
            payload = m.encode(message)
            blobs: list[bytes] = []
            if len(payload) > m.MAX_INLINE:
                message, blobs = values.deflate(message)
                payload = m.encode(message)
            headers = None
            if output.to == "inbox":
                stream = self._stream
                subject = self._subject(output.target)
                if type(message) is m.Start and not message.incarnation:
                    headers = FIRST
            elif output.to == "event":
                stream = "REGROW_EVENTS"
                subject = f"{self._event}{resident.pid}.{subjects.token(output.message.type)}"  # type: ignore[attr-defined]
            else:
                stream, subject = "REGROW_REPLIES", output.target
            self.send(resident, seq, stream, subject, payload, f"{prefix}{output.n}", headers, blobs)

    def send(
        self,
        resident: Resident,
        seq: int,
        stream: str,
        subject: str,
        payload: bytes,
        msg_id: str,
        headers: dict[str, str] | None = None,
        blobs: list[bytes] | None = None,
    ) -> None:
        """Publish for a process; the floor waits for its acknowledgement, and it waits for its large values."""
        self.floor.open(seq)
        resident.unacked += 1
        done: Callable[[PubAck | BaseException], None] = functools.partial(self._acknowledged, resident, seq)
        if headers is FIRST:
            again = functools.partial(self.send, resident, seq, stream, subject, payload, f"{msg_id}.again")
            done = functools.partial(self._started, done, again)
        put = functools.partial(self._bus.publish_soon, stream, subject, payload, msg_id, headers=headers, done=done)
        if resident.outbox is not None:
            resident.outbox.append((blobs or [], put))
        elif blobs:
            resident.outbox = [(blobs, put)]
            self.spawn(self._work_off_outbox(resident))
        else:
            put()

    async def _work_off_outbox(self, resident: Resident) -> None:
        outbox = resident.outbox
        assert outbox is not None
        while outbox:
            blobs, put = outbox.pop(0)
            for blob in blobs:
                await self._bus.put_value(blob)
            put()
        resident.outbox = None

    def _started(
        self, done: Callable[[PubAck | BaseException], None], again: Callable[[], None], outcome: PubAck | BaseException
    ) -> None:
        """A first `start` was refused: it stands there, or something else came before it. The fold drops a repeat."""
        if isinstance(outcome, WrongRevision) and not self._stopped:
            again()
        done(outcome)

    def _acknowledged(self, resident: Resident, seq: int, outcome: PubAck | BaseException) -> None:
        if self._stopped:
            return
        resident.unacked -= 1
        self.floor.close(seq)
        if isinstance(outcome, WrongRevision):
            return  # a `start` that was stored before, long ago
        if isinstance(outcome, BaseException) and self.residents.get(resident.pid) is resident:
            self._stick(resident, seq, "output-refused", f"an output was refused: {outcome}")

    # Activation -----------------------------------------------------------------------------------------------------------

    def _load(self, pid: str, received: Received) -> None:
        """Read a process from its subject up to `received`."""
        self._foreign.pop(pid, None)
        resident = self._reside(pid)
        resident.queue = deque([received])
        self.floor.open(received.seq)
        self.spawn(self._activate(resident, received.seq))

    def _wake(self, pid: str) -> None:
        """Read a process because it was busy when its last host ended."""
        if pid in self.residents:
            return
        resident = self._reside(pid)
        resident.queue = deque()
        self.spawn(self._activate(resident, None))

    async def _activate(self, resident: Resident, up_to: int | None) -> None:
        pid = resident.pid
        floor = self.floor.value
        async with self._loads:
            if up_to is None:
                last = await self._bus.last(self._stream, self._subject(pid))
                up_to = last.seq if last is not None else 0
            history = await self._bus.history(self._stream, self._subject(pid), 1, up_to)
        inputs = [(message, r) for r in history if (message := self._decode(r)) is not None]
        start, builds = current_start(inputs)
        if start is not None and builds[-1][0] != self._env.build:
            self._turn_away(resident)
            return
        since = start.since if start is not None else 0
        quiet_to = await self._quiet_to(pid, floor, builds)
        if self._careful is not None or (inputs and inputs[-1][1].seq > quiet_to):
            resident.known = await self._last_event(pid)
        todo = [(message, r) for message, r in inputs if r.seq > since]
        for at in range(0, len(todo), _SLICE):
            part = todo[at : at + _SLICE]
            for i, (message, r) in enumerate(part):
                if values.has_blob(r.data):
                    try:
                        part[i] = (await values.inflate(message, self._bus.get_value), r)
                    except ValueMissing as error:
                        self._stick(resident, r.seq, "value-missing", str(error))
                        self._drop_queue(resident)
                        return
            for piece in self._pieces(part, quiet_to):
                if self._careful is not None and piece[-1][1].seq > quiet_to:
                    await self._note(pid, piece[-1][1].seq)
                if not await _outside_tasks(self._replay, resident, piece, quiet_to):
                    self._drop_queue(resident)
                    return
        self.stuck.pop(pid, None)
        if resident.process.start is not None:
            await _outside_tasks(self.local.resume, resident, quiet_to)
        resident.used = self._host.loop_time()
        await self._work_off(resident)

    def _pieces(self, part: list[Recorded], quiet_to: int) -> list[list[Recorded]]:
        """In a careful recovery, turns that were not known to be done are made one by one."""
        if self._careful is None:
            return [part]
        quiet = [item for item in part if item[1].seq <= quiet_to]
        rest = [[item] for item in part if item[1].seq > quiet_to]
        return [quiet, *rest] if quiet else rest

    async def _quiet_to(self, pid: str, floor: int, builds: list[tuple[str, int]]) -> int:
        """The last input whose outputs are known to be out: by this build's floor, or by that of the build it comes from."""
        quiet = max(floor, self._parked_at.pop(pid, 0))
        stuck = self.stuck.get(pid)
        if len(builds) > 1 and builds[-1][1] > floor:
            old = await self._keeper.read_floor_of(self._env.app, builds[-2][0], self.number)
            quiet = old.floor if old is not None else 0
            stuck = old.stuck.get(pid, stuck) if old is not None else stuck
        return min(quiet, stuck.seq - 1) if stuck is not None else quiet

    async def _last_event(self, pid: str) -> tuple[int, int] | None:
        last = await self._bus.last("REGROW_EVENTS", f"{self._event}{pid}.*")
        if last is None:
            return None
        record: m.EventRecord = m.decode(last.data, m.EventRecord)
        return record.incarnation, record.n

    def _replay(self, resident: Resident, inputs: list[Recorded], quiet_to: int) -> bool:
        """Fold recorded inputs; false when the process got stuck."""
        process = resident.process
        for message, received in inputs:
            seq = received.seq
            if seq <= process.applied:
                continue
            if seq <= quiet_to:
                process.replaying = True
                if not self._apply_quietly(resident, message, received):
                    return False
                continue
            process.replaying = False
            self.floor.open(seq)
            try:
                if not self._apply_quietly(resident, message, received):
                    return False
                self._publish(resident, seq, process.take_outputs())
            except (RegrowError, OverflowError, ValueError) as refused:
                self._stick(resident, seq, "output-refused", f"what it sent cannot be sent: {refused}")
                return False
            finally:
                self.floor.close(seq)
        process.replaying = False
        return True

    def _apply_quietly(self, resident: Resident, message: m.Input, received: Received) -> bool:
        """One replayed turn: local work is looked at when all is folded."""
        process = resident.process
        watchdog = self._host.watchdog
        self.inputs += 1
        watchdog.enter(process.pid, received.seq)
        error: BaseException | None = None
        try:
            if process.replaying:
                with _muted():
                    process.apply(message, received.seq, received.time)
            else:
                process.apply(message, received.seq, received.time)
        except BaseException as caught:  # noqa: BLE001 - as in `_apply`
            error = caught
        hung = watchdog.leave()
        if error is None and hung is None:
            if self._host.options.force_replay:
                sent = [m.encode(o.message) for o in process.outputs]
                resident.past.append(Past(message, received.seq, received.time, sent))
            if process.replaying:
                process.take_outputs()
            process.new_local.clear()
            process.dropped_local.clear()
            return True
        if hung is not None:
            self._stick(resident, received.seq, hung.code, str(hung))
        elif isinstance(error, Diverged):
            self.spawn(self._explain(resident, error))
            self._stick(resident, received.seq, "nondeterminism", str(error.explain(process.pid)))
        else:
            log.error("process %s failed in its fold", process.pid, exc_info=error)
            self._stick(resident, received.seq, "fold-failed", repr(error))
        return False

    def _turn_away(self, resident: Resident) -> None:
        self.residents.pop(resident.pid, None)
        self._mark_foreign(resident.pid)
        queue, resident.queue = resident.queue, None
        for received in queue or ():
            self.floor.close(received.seq)
            if b'"upgrade"' in received.data[:_KIND_WITHIN]:
                self._route(received)

    def _drop_queue(self, resident: Resident) -> None:
        queue, resident.queue = resident.queue, None
        for received in queue or ():
            self.floor.close(received.seq)

    # Recovery after others died of it --------------------------------------------------------------------------------------

    async def _pump_carefully(self, busy: list[str]) -> None:
        """One turn at a time, each noted before: if it takes this host down too, the next one knows which it was."""
        assert self._careful is not None
        for pid in busy:
            self._wake(pid)
            await self._loaded(pid)
        while self._careful or not self._reader.caught_up.is_set():
            if not self._careful:
                await asyncio.sleep(0.002)
                continue
            received = self._careful.popleft()
            pid = received.subject.rsplit(".", 1)[1]
            if pid in self.residents:  # else `_activate` notes what it makes anew
                await self._note(pid, received.seq)
            await _outside_tasks(self._route_safely, received)
            await self._loaded(pid)
            self.floor.close(received.seq)
        self._careful = None
        self._suspect = None
        await self._write_cursor()

    async def _note(self, pid: str, seq: int) -> None:
        suspect = self._suspect
        again = suspect is not None and (suspect.pid, suspect.seq) == (pid, seq)
        self._suspect = m.Suspect(pid, seq, suspect.attempts + 1 if again and suspect is not None else 1)
        await self._write_cursor()

    async def _loaded(self, pid: str) -> None:
        while (resident := self.residents.get(pid)) is not None and resident.queue is not None:
            await asyncio.sleep(0.002)

    # The cursor, and leaving memory ------------------------------------------------------------------------------------------

    def _cursor(self, *, left: bool = False) -> m.Cursor:
        floor = self.floor.value
        busy = sorted(pid for pid, r in self.residents.items() if r.busy or r.queue is not None)
        return m.Cursor(self.epoch, floor, busy, dict(self.stuck), left, self._suspect)

    async def _write_cursor(self, *, left: bool = False) -> None:
        async with self._cursor_lock:
            await self._keeper.write(self._cursor(left=left))

    async def _keep_cursor(self) -> None:
        while not self._stopped:
            await asyncio.sleep(self._host.options.cursor_every)
            await self._host.allowed()
            await self._write_cursor()
            if self._parked_at:
                floor = self.floor.value
                self._parked_at = {pid: seq for pid, seq in self._parked_at.items() if seq > floor}

    async def _park_resting(self) -> None:
        """Processes at rest leave memory, a few at a time."""
        options = self._host.options
        while not self._stopped:
            await asyncio.sleep(min(0.5, options.park_after / 2) if options.park_after else 0.05)
            now = self._host.loop_time()
            resting = [
                r
                for r in self.residents.values()
                if (r.process.ended or now - r.used >= options.park_after) and r.at_rest and now - r.used >= 0.2
            ]
            for at in range(0, len(resting), _SLICE):
                await _outside_tasks(self._park, resting[at : at + _SLICE])

    def _park(self, residents: list[Resident]) -> None:
        floor = self.floor.value
        for resident in residents:
            if self.residents.get(resident.pid) is resident and resident.at_rest:
                del self.residents[resident.pid]
                self.local.left(resident)
                if resident.process.applied > floor:
                    self._parked_at[resident.pid] = resident.process.applied
                resident.leave()


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """A replayed body prints and logs nothing: it did when it ran first."""
    stdout, manager = sys.stdout, logging.root.manager
    disabled = manager.disable
    sys.stdout, manager.disable = _NOWHERE, logging.CRITICAL
    try:
        yield
    finally:
        sys.stdout, manager.disable = stdout, disabled


def current_start(inputs: list[Recorded]) -> tuple[m.Start | None, list[tuple[str, int]]]:
    """The start of the current incarnation, and the builds that have folded it, each with the input that said so."""
    start: m.Start | None = None
    builds: list[tuple[str, int]] = []
    for message, received in inputs:
        if isinstance(message, m.Start) and (start is None or message.incarnation > start.incarnation):
            start = message
            builds.append((message.build, received.seq))
        elif isinstance(message, m.Upgrade) and start is not None:
            builds.append((message.build, received.seq))
    changes = [build for i, build in enumerate(builds) if i == 0 or build[0] != builds[i - 1][0]]
    return start, changes


def explain_divergence(env: Env, pid: str, history: list[Received]) -> str | None:
    """Fold a history with a trace; what diverged, with the line of the program."""
    process = Process(env, pid, trace=True)
    process.replaying = True
    try:
        for received in history:
            with contextlib.suppress(msgspec.MsgspecError):
                process.apply(m.decode_input(received.data), received.seq, received.time)
            process.take_outputs()
    except Diverged as diverged:
        return str(diverged.explain(pid))
    finally:
        process.leave()
    return None


async def _outside_tasks(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function` from a plain callback of the loop: a fold runs tasks of its own, which no task may do inside it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def call() -> None:
        if future.done():
            return
        try:
            future.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)

    loop.call_soon(call)
    return await future
