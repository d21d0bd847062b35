"""Processes that nobody can go on with: those whose build has no host any more, and those whose parent has ended.

The list of processes is read through only when there may be such: a build has had no host for the grace period while
others of its app have, or an app has none at all. Then:

- A running process of a forsaken build is sent an `Upgrade` to the newest living build that can run it (`choice`). - A
running process of a deserted app whose parent has ended is sent a `Cancel`: its parent's host would have done so. It
  ends when a host of the app comes.

Both have ids derived from pid and purpose, so sending one twice does nothing; then the record says what was sent, and
the next reading finds nothing to do.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace
from regrow_protocol import messages, subjects
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError, WrongRevision
from regrow_protocol.messages import Cancel, HostRecord, Message, ProcessRecord, Upgrade
from regrow_service.logs import get_logger
from regrow_service.metrics import Metrics

from .choice import LiveBuild, newest
from .hosts import Change, Group, Hosts, clock
from .inboxes import Inboxes
from .measures import ORPHANS, UPGRADES
from .partitions import Partitions
from .projection import BUCKET
from .records import RUNNING, read_record

LOOK = 0.5
PAUSE, PAUSE_MAX = 2.0, 120.0
"""Seconds between two readings of the list while nothing changes but the list."""
AT_ONCE = 256


class Situation(Struct, frozen=True):
    """What there is to sweep.

    Attributes:
        forsaken: builds without hosts, of apps that have some; and those whose processes a newer one wants at once.
        living: by app, its builds with hosts.
        deserted: apps without any host.
    """

    forsaken: frozenset[Group]
    living: Mapping[str, tuple[LiveBuild, ...]]
    deserted: frozenset[str]


class Found(Struct):
    """A running process in the list, with the revision of its record."""

    record: ProcessRecord
    revision: int


class Sweep:
    """Looks after forsaken and orphaned processes; `run` does it.

    Args:
        bus: connected; streams and buckets exist.
        hosts, partitions: followed by their own tasks.
        inboxes: to send to.
        metrics: where to count.
        grace: seconds without a host after which a build is forsaken, an app deserted.
    """

    def __init__(
        self, bus: Bus, hosts: Hosts, partitions: Partitions, inboxes: Inboxes, metrics: Metrics, grace: float
    ) -> None:
        self._bus = bus
        self._inboxes = inboxes
        self._kv = bus.kv(BUCKET)
        self._hosts = hosts
        self._partitions = partitions
        self._grace = grace
        self._empty_since: dict[Group, float] = {}
        self._cancelled: set[str] = set()
        self._metrics = metrics
        self._log = get_logger("sweep")
        hosts.subscribe(self._host_changed)

    async def run(self) -> None:
        """Look, for ever; may be cancelled at any moment."""
        await self._hosts.current.wait()
        last: Situation | None = None
        pause, next_at, read_at = PAUSE, 0.0, -1
        while True:
            situation = self._situation()
            if situation != last:
                last, pause, next_at, read_at = situation, PAUSE, 0.0, -1
            if (situation.forsaken or situation.deserted) and clock() >= next_at:
                try:
                    now_at = await self._bus.last_seq(self._kv.stream)
                    if now_at != read_at:
                        read_at = now_at if await self._sweep(situation) else -1
                except RegrowError as error:
                    self._log.warning("the list of processes could not be swept", reason=str(error))
                next_at, pause = clock() + pause, min(pause * 2, PAUSE_MAX)
            await asyncio.sleep(LOOK)

    # what there is to do ----------------------------------------------------------------------------------------------

    def _situation(self) -> Situation:
        now = clock()
        hosts = defaultdict(list)
        for host in self._hosts.living():
            hosts[Group(host.app, host.build)].append(host)
        known = {*self._partitions.owners, *self._partitions.builds}
        empty = known - hosts.keys()
        self._empty_since = {group: self._empty_since.get(group, now) for group in empty}
        if not self._hosts.available:
            return Situation(frozenset(), {}, frozenset())
        living: dict[str, list[LiveBuild]] = defaultdict(list)
        for group, members in sorted(hosts.items()):
            living[group.app].append(LiveBuild.of(group.build, members, self._partitions.builds.get(group)))
        late = {group for group, since in self._empty_since.items() if now - since >= self._grace}
        return Situation(
            frozenset(group for group in late if group.app in living) | _superseded(hosts, living),
            {app: tuple(builds) for app, builds in living.items()},
            frozenset(group.app for group in late if group.app not in living),
        )

    def _host_changed(self, change: Change) -> None:
        if change.news == "joined" and change.host is not None:
            self._empty_since.pop(Group(change.host.app, change.host.build), None)

    async def _sweep(self, situation: Situation) -> bool:
        """Read the list once and send what is to be sent; false when something could not be sent."""
        upgrades: list[tuple[Found, str]] = []
        orphans: list[Found] = []
        candidates = [found async for found in self._running(situation)]
        targets = {found.record.pid: _target(found.record) for found in candidates}
        self._cancelled.intersection_update(targets)
        for found in candidates:
            record = found.record
            if record.app in situation.deserted:
                if record.pid not in self._cancelled and await self._parent_has_ended(record):
                    orphans.append(found)
                continue
            root = record.root or record.pid
            if root not in targets:
                known = await self._record(root)
                targets[root] = _target(known) if known else ""
            build = newest(situation.living[record.app], record.type, targets[root])
            if build is not None:
                upgrades.append((found, build))
        sent: list[bool] = []
        for start in range(0, len(upgrades), AT_ONCE):
            sent += await asyncio.gather(*[self._upgrade(*each) for each in upgrades[start : start + AT_ONCE]])
        for start in range(0, len(orphans), AT_ONCE):
            sent += await asyncio.gather(*[self._cancel(each) for each in orphans[start : start + AT_ONCE]])
        return all(sent)

    async def _running(self, situation: Situation) -> AsyncIterator[Found]:
        """The running processes of forsaken builds and deserted apps."""
        position = 1
        while True:
            batch, pending = await self._bus.get_batch(self._kv.stream, f"{self._kv.prefix}*", position)
            for message in batch:
                record = read_record(message.data) if message.data else None
                if record is None or record.status != RUNNING:
                    continue
                if record.app in situation.deserted or Group(record.app, record.build) in situation.forsaken:
                    yield Found(record, message.seq)
            if not batch or not pending:
                return
            position = batch[-1].seq + 1

    async def _parent_has_ended(self, record: ProcessRecord) -> bool:
        parent = await self._record(record.parent) if record.parent else None
        return parent is not None and parent.status != RUNNING

    async def _record(self, pid: str) -> ProcessRecord | None:
        found = await self._kv.get(pid)
        return None if found is None else read_record(found[0])

    # what is done -----------------------------------------------------------------------------------------------------

    async def _upgrade(self, found: Found, build: str) -> bool:
        record = found.record
        # The revision that it answers is in the id: a process may come back to a build that it had left a minute ago.
        msg_id = f"{record.pid}.upgrade.{build}.{found.revision}"
        known = await self._bus.kv("regrow_partitions").get(f"build.{subjects.token(record.app)}.{record.build}")
        had = messages.decode(known[0], messages.BuildRecord).patches if known is not None else []
        if not await self._send(record, Upgrade(build=build, had=had), msg_id):
            return False
        self._metrics[UPGRADES].labels(record.app).inc()
        self._log.info("upgrade sent", pid=record.pid, app=record.app, build=record.build, to=build)
        try:
            await self._kv.update(record.pid, messages.encode(replace(record, build=build)), found.revision)
        except WrongRevision:
            return True  # the projection has news of it: the list has changed, so it will be read again
        return True

    async def _cancel(self, found: Found) -> bool:
        record = found.record
        cancel = Cancel(reason=f"its parent {record.parent} has ended")
        if not await self._send(record, cancel, f"{record.pid}.orphaned.{record.parent}"):
            return False
        self._cancelled.add(record.pid)
        self._metrics[ORPHANS].labels(record.app).inc()
        self._log.info("orphan cancelled", pid=record.pid, app=record.app, parent=record.parent)
        return True

    async def _send(self, record: ProcessRecord, message: Message, msg_id: str) -> bool:
        try:
            await self._inboxes.send(record.app, record.pid, message, msg_id)
        except RegrowError as error:
            self._log.warning("an input could not be sent", pid=record.pid, app=record.app, reason=str(error))
            return False
        return True


def _superseded(hosts: Mapping[Group, list[HostRecord]], living: Mapping[str, Sequence[LiveBuild]]) -> frozenset[Group]:
    """Builds with hosts, of which a newer one wants their processes at once (`upgrade="auto"`)."""
    eager: dict[str, float] = {}
    for app, builds in living.items():
        wanting = [b.created for b in builds if any(host.upgrade == "auto" for host in hosts[Group(app, b.build)])]
        eager[app] = max(wanting, default=0.0)
    return frozenset(
        Group(app, build.build) for app, builds in living.items() for build in builds if build.created < eager[app]
    )


def _target(record: ProcessRecord) -> str:
    return record.program.target if record.program else ""
