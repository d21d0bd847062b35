"""Leases: a machine ends with the process that owns it.

- Events tell that an owner has ended, or began a newer incarnation, which knows nothing of the machine (its body asks
  for machines anew). A durable consumer that all managers share.
- A sweep finds what was missed, in the list of processes.
- An owner that never comes back: no host of its app lives for longer than the lease, or nobody knows the process. When
  it was last known that it can come back is in the machine's record (`seen`), so that managers may come and go.
- Machines that are kept, and those of clients, are owned by nobody: they live until somebody stops them.
"""

from __future__ import annotations

import asyncio
import time

from msgspec.structs import replace
from regrow_protocol import messages
from regrow_protocol.bus import Entry, Received
from regrow_protocol.errors import RegrowError
from regrow_protocol.machines import MachineRecord
from regrow_protocol.messages import EventRecord, Ref
from regrow_protocol.streams import EVENTS
from regrow_protocol.subjects import token
from regrow_service.consumer import Consumer
from regrow_service.logs import get_logger
from regrow_service.owners import FILTERS, RUNNING, Owner, look_up
from regrow_service.retry import Retry

from .context import Context
from .ending import Ending
from .handling import WHICHEVER

CONSUMER = "machine-leases"
SWEEP = 10.0
GRACE = 15.0
"""Seconds for which a manager itself must have seen no host before it stops a machine: one that was started together
with all hosts must not be the first to judge."""
AT_ONCE = 32
RENEW = 1 / 3
"""Of the lease: what is in a record may be that old though its owner is there."""
LOST = "owner lost"


class Leases:
    """Of one manager; `run` watches over owners, `consumer` reads their events."""

    def __init__(self, context: Context, ending: Ending, service: str) -> None:
        self._here = context
        self._ending = ending
        self._hosts: dict[str, str] = {}
        self._without: dict[str, float] = {}
        self._log = get_logger("leases")
        self.consumer: Consumer[EventRecord] = Consumer(
            context.bus,
            context.metrics,
            service=service,
            name=CONSUMER,
            stream=EVENTS,
            filters=FILTERS,
            decode=_decode,
            handle=self._event,
            concurrency=256,
            retry=Retry(attempts=20),
            only_new=True,
        )

    async def _event(self, event: EventRecord, _: Received) -> None:
        for id_ in list(self._here.records.owned.get(event.pid, ())):
            record = self._here.records.live(id_)
            if record is None or record.owner is None:
                continue
            if event.final:
                await self._end(record, f"owner {event.type}")
            elif _newer(event.incarnation, record.owner):
                await self._end(record, "owner restarted")

    async def run(self) -> None:
        """Sweep, for ever; may be cancelled at any moment."""
        here = self._here
        watcher = here.bus.kv("regrow_hosts").watch(">", self._host)
        pause = min(SWEEP, max(here.settings.machine_lease / 4, 0.2))
        try:
            await watcher.current
            while True:
                try:
                    await self.sweep()
                except RegrowError as error:
                    self._log.warning("owners could not be looked at", reason=str(error))
                await asyncio.sleep(pause)
        finally:
            await watcher.stop()

    def _host(self, entry: Entry) -> None:
        app = entry.key.partition(".")[0]
        if entry.operation == "put":
            self._hosts[entry.key] = app
            self._without.pop(app, None)
        elif self._hosts.pop(entry.key, None) is not None and app not in self._hosts.values():
            self._without[app] = asyncio.get_running_loop().time()

    async def sweep(self) -> None:
        """Look at the owners of this node's machines, and of those whose node has no manager."""
        here = self._here
        by_owner: dict[str, list[MachineRecord]] = {}
        for pid, ids in here.records.owned.items():
            for id_ in ids:
                record = here.records.live(id_)
                if record is None or record.state == "stopping":
                    continue
                if record.node in ("", here.node) or here.records.node_gone(record.node):
                    by_owner.setdefault(pid, []).append(record)
        hands = asyncio.Semaphore(AT_ONCE)
        apps = set(self._hosts.values())

        async def look(pid: str, records: list[MachineRecord]) -> None:
            async with hands:
                for record in records:
                    await self._judge(record, await look_up(here.bus, pid, record.app), token(record.app) in apps)

        results = await asyncio.gather(
            *[look(pid, records) for pid, records in by_owner.items()], return_exceptions=True
        )
        for error in results:
            if isinstance(error, BaseException):
                raise error

    async def _judge(self, record: MachineRecord, process: Owner | None, hosted: bool) -> None:
        here, owner = self._here, record.owner
        if owner is None:
            return
        if process is not None and process.status != RUNNING and process.incarnation >= owner.incarnation:
            await self._end(record, f"owner {process.status}")
            return
        if process is not None and _newer(process.incarnation, owner):
            await self._end(record, "owner restarted")
            return
        now, lease = time.time(), here.settings.machine_lease
        if hosted and process is not None:
            if now - record.seen > lease * RENEW:
                await here.records.change(record.id, lambda found: replace(found, seen=now))
        elif now - record.seen > lease * (1 + RENEW) and self._long_without(record.app, hosted):
            self._log.warning("an owner never came back", machine=record.id, app=record.app, pid=owner.pid)
            await self._end(record, LOST)

    async def _end(self, record: MachineRecord, reason: str) -> None:
        """Stop a machine, if it is still the same owner's, and nobody has seen that one since."""

        def still(now: MachineRecord) -> bool:
            return now.owner == record.owner and (now.seen == record.seen or reason != LOST)

        await self._ending.mark(record.id, reason, only=still)

    def _long_without(self, app: str, hosted: bool) -> bool:
        """Whether this manager itself has seen for long enough that the owner cannot come back."""
        grace = min(GRACE, self._here.settings.machine_lease)
        if not self._here.records.settled(grace):
            return False
        since = self._without.get(token(app), 0.0)
        return hosted or asyncio.get_running_loop().time() - since > grace


def _newer(incarnation: int, owner: Ref) -> bool:
    return owner.incarnation != WHICHEVER and incarnation > owner.incarnation


def _decode(body: bytes) -> EventRecord:
    return messages.decode(body, EventRecord)
