"""Which partitions this host owns: follows what the supervisor assigns, and what is left of it after a lost lease.

A partition runs here exactly while its record names this host under the epoch that it was taken over with. One that
moves to another host is handed over: that host waits a moment for the cursor of a living one. A host that is about to
end lets others take what it has first. After the lease ran out nothing is published and nothing begun until it has been
read who owns what; what another host has got by then is dropped without a word.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec
from regrow_protocol import messages as m
from regrow_protocol.bus import Entry, Watcher
from regrow_protocol.errors import RegrowError
from regrow_protocol.subjects import token

from .cursor import OwnershipLost
from .partition import HANDOVER, Partition
from .waiting import POLL, until

if TYPE_CHECKING:
    from .host import Host

log = logging.getLogger("regrow.host")

AGAIN = 0.5
PATIENCE = 1.0
"""Seconds that a host which is about to end waits for the supervisor to move anything."""
FORMER = 4
"""Owners of a partition that are remembered."""


class Ownership:
    """Of one host.

    Args:
        since: the sequence that the first input of the host's build is after.

    Attributes:
        partitions: those that run here, by number.
        changed: set whenever a partition has been taken over or let go.
    """

    def __init__(self, host: Host) -> None:
        self.partitions: dict[int, Partition] = {}
        self.changed = asyncio.Event()
        self._host = host
        self._bucket = host.bus.kv("regrow_partitions")
        self._pattern = f"own.{token(host.app)}.{host.env.build}.*"
        self._since = 0
        self._owners: dict[int, tuple[int, m.Ownership | None]] = {}
        self._hosts = host.bus.kv("regrow_hosts")
        self._former: dict[int, dict[int, str]] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._open = asyncio.Event()
        self._open.set()
        self._regaining = False
        self._ending = False
        self._watcher: Watcher | None = None

    async def start(self, since: int) -> None:
        """Begin to follow."""
        self._since = since
        self._watcher = self._bucket.watch(self._pattern, self._entry)
        await self._watcher.current

    def take_no_more(self) -> None:
        """The host is about to end."""
        self._ending = True

    async def handed_over(self, deadline: float) -> None:
        """Wait until other hosts have taken what is here, at most until `deadline` (event loop's time).

        Not where no other host of the build could, or nobody moves anything.
        """
        if not self.partitions or not await self._has_peers():
            return
        moved = self._host.loop_time()
        while self.partitions and (now := self._host.loop_time()) < deadline:
            if any(partition.handing_over for partition in self.partitions.values()):
                moved = now
            elif now - moved > PATIENCE:
                return
            await asyncio.sleep(POLL)

    async def _has_peers(self) -> bool:
        host = self._host
        try:
            async with asyncio.timeout(PATIENCE):
                async for entry in self._hosts.items(f"{token(host.app)}.*"):
                    record = m.decode(entry.value, m.HostRecord)
                    if record.build == host.env.build and record.host != host.id and not record.draining:
                        return True
        except (RegrowError, TimeoutError, msgspec.MsgspecError) as error:
            log.warning("host %s cannot see other hosts, and hands over nothing: %s", host.id, error or "time-out")
        return False

    async def stop(self, *, write: bool) -> None:
        """Let go of everything; with `write` after noting how far it is."""
        self._ending = True
        if self._watcher is not None:
            await self._watcher.stop()
        await asyncio.gather(*(partition.stop(write=write) for partition in self.partitions.values()))
        self.partitions.clear()

    def epoch_of(self, part: int) -> int | None:
        """The epoch under which this host owns a partition; None when it does not."""
        owner = self._owners.get(part, (0, None))[1]
        return owner.epoch if owner is not None and owner.host == self._host.id else None

    # Owners -----------------------------------------------------------------------------------------------------------

    def _entry(self, entry: Entry) -> None:
        """News of an owner; what is older than what is known is none."""
        try:
            part = int(entry.key.rsplit(".", 1)[1])
            owner: m.Ownership | None = m.decode(entry.value, m.Ownership) if entry.value else None
        except (ValueError, msgspec.MsgspecError) as error:
            log.warning("the owner in %s does not decode: %s", entry.key, error)
            return
        revision, known = self._owners.get(part, (0, None))
        if entry.revision and entry.revision <= revision:
            return
        if known is not None:
            former = self._former.setdefault(part, {})
            former[known.epoch] = known.host
            if len(former) > FORMER:
                del former[min(former)]
        self._owners[part] = (entry.revision or revision, owner)
        self._host.spawn(self._reconcile(part))

    async def _reconcile(self, part: int) -> None:
        """Run the partition exactly if this host owns it; tries until that is so."""
        async with self._locks.setdefault(part, asyncio.Lock()):
            while True:
                running = self.partitions.get(part)
                epoch = self.epoch_of(part)
                if running is not None and running.epoch != epoch:
                    await self._part_with(running)
                    continue
                if running is not None or epoch is None or self._ending:
                    break
                try:
                    await self.allowed()
                    await self._take_over(part, epoch)
                except OwnershipLost as error:
                    log.info("%s", error)  # it moved on meanwhile
                    break
                except (RegrowError, TimeoutError) as error:
                    log.warning("partition %d cannot be taken over yet: %s", part, error or "time-out")
                    await asyncio.sleep(AGAIN)
        self.changed.set()

    async def _part_with(self, running: Partition) -> None:
        if self._host.lease.valid():
            await running.hand_over()
        else:
            await running.stop()
        if self.partitions.get(running.number) is running:
            del self.partitions[running.number]

    async def _take_over(self, part: int, epoch: int) -> None:
        partition = Partition(self._host, part, epoch)
        await self._wait_for_hand_over(partition)
        try:
            await partition.start(self._since)
        except BaseException:
            await partition.stop()
            raise
        if self._ending or self.epoch_of(part) != epoch:
            await partition.stop(write=self._host.lease.valid())
        else:
            self.partitions[part] = partition

    async def _wait_for_hand_over(self, partition: Partition) -> None:
        """If the host that runs it still lives it is about to let go.

        That is the one that wrote the cursor; owners after it may have never begun.
        """
        former = self._former.pop(partition.number, {})
        if not former:
            return
        deadline = self._host.loop_time() + self._host.options.drain + 2 * HANDOVER
        while self._host.loop_time() < deadline and self.epoch_of(partition.number) == partition.epoch:
            cursor = await partition.keeper.look()
            if cursor is None or cursor.clean or cursor.released:
                return
            runs = former.get(cursor.epoch, former[max(former)])
            if runs in ("", self._host.id) or await self._hosts.get(f"{token(self._host.app)}.{runs}") is None:
                return
            await asyncio.sleep(POLL)

    # Partitions that end here -----------------------------------------------------------------------------------------

    def lost(self, partition: Partition) -> None:
        """Its cursor has another owner."""
        self._host.spawn(self._drop(partition))

    def failed(self, partition: Partition) -> None:
        """Something went wrong that is nobody's fault here: begin again from the cursor."""
        self._host.spawn(self._begin_again(partition))

    async def _drop(self, partition: Partition) -> None:
        await partition.stop()
        if self.partitions.get(partition.number) is partition:
            del self.partitions[partition.number]

    async def _begin_again(self, partition: Partition) -> None:
        if partition.stopping:
            return  # said before
        await self._drop(partition)
        await asyncio.sleep(AGAIN)
        await self._reconcile(partition.number)

    # The lease --------------------------------------------------------------------------------------------------------

    def lease_lost(self) -> None:
        """Be silent, and find out what is left."""
        self._open.clear()
        if not self._regaining:
            self._regaining = True
            self._host.spawn(self._regain())

    async def allowed(self) -> None:
        """Wait until this host may act: begin a step, write a cursor, take a partition over."""
        while not self._host.lease.valid():
            await self._open.wait()
            await asyncio.sleep(0)

    async def _regain(self) -> None:
        lease = self._host.lease
        while True:
            try:
                await until(lambda: lease.renewed and self._host.bus.connected)
                lost = await self._read_again()
            except (RegrowError, TimeoutError) as error:
                log.warning("host %s cannot read yet what it owns: %s", self._host.id, error or "time-out")
                await asyncio.sleep(AGAIN)
                continue
            if lease.renewed:
                break
        self._regaining = False
        lease.confirm()
        self._open.set()
        self._host.bus.kick()
        log.warning("host %s has its lease again; it lost %d partitions", self._host.id, lost)

    async def _read_again(self) -> int:
        """Read who owns what; how many partitions are another host's by now. They are stopped."""
        before = dict(self._owners)
        there: set[int] = set()
        async for entry in self._bucket.items(self._pattern):
            self._entry(entry)
            there.add(int(entry.key.rsplit(".", 1)[1]))
        for part in before.keys() - there:
            if self._owners[part] == before[part]:
                self._owners[part] = (before[part][0], None)
        lost = [p for p in self.partitions.values() if p.epoch != self.epoch_of(p.number)]
        await asyncio.gather(*(self._drop(partition) for partition in lost))
        return len(lost)
