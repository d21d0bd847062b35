"""The list of processes: `regrow_processes`, made from events; for listing, never the truth.

A durable consumer, shared by all supervisors. Events are taken in batches, those of one process are folded together
(`records.fold`), and each process is written once per batch, by compare-and-set on the revision last seen; after a
conflict the record is read again and the events are folded into that. So the list is right in the end whoever wrote
what in which order, and an event is acknowledged only when the list shows it.

A process with a name holds `name.<app>.<name>` from its start to its end; of two the one that ran first has it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict

import msgspec
from msgspec import Struct
from regrow_protocol import messages, subjects
from regrow_protocol.bus import Bus, Delivery
from regrow_protocol.bus.wire import pub
from regrow_protocol.errors import RegrowError, StorageFull, Unreachable, WrongRevision
from regrow_protocol.messages import EventRecord, ProcessRecord
from regrow_protocol.streams import EVENTS
from regrow_service import dead
from regrow_service.logs import get_logger
from regrow_service.metrics import Metrics

from .measures import LAG, PROJECTED
from .names import Names, Taken
from .records import ENDS, RUNNING, fold, read_record, tells

BUCKET = "regrow_processes"
CONSUMER = "supervisor-projection"
FILTERS = [subjects.events_of(type_=type_) for type_ in ("started", "restarted", "tagged", *sorted(ENDS))]

BATCH = 1000
GATHER = 0.1
"""Seconds in which events are gathered into one batch."""
ACK_WAIT = 5.0
CACHED = 50_000
CONFLICTS = 10
AGAIN = 1.0
NAME_ATTEMPTS = 5


class Known(Struct):
    """A record as it was last read or written here."""

    record: ProcessRecord | None
    revision: int


class Work(Struct):
    """The events of one process in a batch.

    Attributes:
        again: one of them was delivered before, so the record is perhaps further than what is known here.
    """

    app: str
    deliveries: list[Delivery] = []
    events: list[tuple[int, EventRecord]] = []
    again: bool = False


class Projection:
    """Makes the list; `run` does it.

    Args:
        bus: connected; streams and buckets exist.
        metrics: where to count.
        service: for dead letters.
    """

    def __init__(self, bus: Bus, metrics: Metrics, service: str) -> None:
        self._bus = bus
        self._kv = bus.kv(BUCKET)
        self._names = Names(self._kv)
        self._service = service
        self._cache: OrderedDict[str, Known] = OrderedDict()
        self._projected = metrics[PROJECTED]
        self._lag = metrics[LAG]
        self._log = get_logger("projection")

    async def run(self, stopping: asyncio.Event) -> None:
        """Project until `stopping` is set."""
        pull = await self._bus.consumer(EVENTS, CONSUMER, FILTERS, ack_wait=ACK_WAIT, max_ack_pending=4 * BATCH)

        async def stop() -> None:
            await stopping.wait()
            await pull.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(stop())
            while not stopping.is_set():
                batch = await pull.fetch(BATCH)
                until = asyncio.get_running_loop().time() + GATHER
                while batch and len(batch) < BATCH and (left := until - asyncio.get_running_loop().time()) > 0:
                    batch += await pull.fetch(BATCH - len(batch), left)
                    if stopping.is_set():
                        break
                if batch:
                    await self._project(batch)

    async def _project(self, batch: list[Delivery]) -> None:
        work: dict[str, Work] = defaultdict(lambda: Work(""))
        for delivery in batch:
            message = delivery.message
            app, pid, _ = subjects.event_parts(message.subject)
            try:
                event = messages.decode(message.data, EventRecord)
            except (msgspec.MsgspecError, ValueError) as error:
                await self._bury(delivery, f"does not decode: {error}")
                continue
            if event.pid != pid:
                await self._bury(delivery, f"an event of {event.pid} on the subject of {pid}")
                continue
            if not tells(event):
                delivery.ack()
                continue
            of_pid = work[pid]
            of_pid.app = app
            of_pid.deliveries.append(delivery)
            of_pid.events.append((message.seq, event))
            of_pid.again |= delivery.attempts > 1
        done = await asyncio.gather(*[self._process(pid, of_pid) for pid, of_pid in work.items()])
        self._acknowledge([delivery for each in done for delivery in each])
        self._lag.set(max(0.0, time.time() - batch[-1].message.time))

    def _acknowledge(self, deliveries: list[Delivery]) -> None:
        """In one write: a write for each costs as much as all else together."""
        self._bus.nc.send(b"".join([pub(delivery._reply, "", b"+ACK") for delivery in deliveries]))
        self._projected.inc(len(deliveries))

    async def _process(self, pid: str, work: Work) -> list[Delivery]:
        """Bring one process up to date; the deliveries that are to be acknowledged now."""
        try:
            record = await self._write(pid, work)
            if record is not None and record.name:
                await self._names.settle(record)
        except Taken as error:
            if work.deliveries[-1].attempts < NAME_ATTEMPTS:
                return self._later(work)  # the end of who has it may be on its way
            self._log.info("a name is taken", pid=pid, app=work.app, reason=str(error))
        except (Unreachable, StorageFull, WrongRevision) as error:
            self._cache.pop(pid, None)
            self._log.warning("a record could not be written", pid=pid, app=work.app, reason=str(error))
            return self._later(work)
        except RegrowError as error:  # too large, not permitted, no name: trying again is of no use
            for delivery in work.deliveries:
                await self._bury(delivery, f"the record is refused: {error}")
            return []
        return work.deliveries

    async def _write(self, pid: str, work: Work) -> ProcessRecord | None:
        known = self._cache.get(pid)
        if known is None:
            first = work.events[0][1]
            fresh = first.type == "started" and not first.final and not work.again
            known = Known(None, 0) if fresh else await self._read(pid)
        for _ in range(CONFLICTS):
            record = fold(known.record, work.app, work.events)
            if record is None or record is known.record:
                return record
            try:
                revision = await self._put(pid, record, known.revision)
            except WrongRevision:
                known = await self._read(pid)
                continue
            self._remember(pid, Known(record, revision))
            return record
        raise WrongRevision(f"The record of {pid} was changed by others {CONFLICTS} times")

    async def _put(self, pid: str, record: ProcessRecord, revision: int) -> int:
        value = messages.encode(record)
        return await (self._kv.update(pid, value, revision) if revision else self._kv.create(pid, value))

    async def _read(self, pid: str) -> Known:
        found = await self._kv.get(pid)
        return Known(None, 0) if found is None else Known(read_record(found[0]), found[1])

    def _remember(self, pid: str, known: Known) -> None:
        if known.record is None or known.record.status != RUNNING:
            self._cache.pop(pid, None)  # nothing more is to come
            return
        self._cache[pid] = known
        self._cache.move_to_end(pid)
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)

    def _later(self, work: Work) -> list[Delivery]:
        for delivery in work.deliveries:
            delivery.nak(AGAIN)
        return []

    async def _bury(self, delivery: Delivery, reason: str) -> None:
        message = delivery.message
        try:
            letter = await dead.bury(self._bus, self._service, "projection", EVENTS, message, reason, delivery.attempts)
        except RegrowError as error:
            self._log.warning("no dead letter could be written", subject=message.subject, reason=str(error))
            delivery.nak(AGAIN)
            return
        self._log.error("dead letter", subject=message.subject, seq=message.seq, reason=reason, letter=letter)
        delivery.term(reason[:100])
