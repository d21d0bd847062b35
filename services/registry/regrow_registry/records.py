"""The bucket `regrow_endpoints`: what living processes serve, who has which public name, and grants to agents.

Every change is a compare-and-set. Records of public processes, names and grants are also followed, for the services
that are made of them; what is decided is read from the bucket. The record of a process that has ended stays for a
while, since commands of one process may overtake each other on their way through several registries.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
from msgspec.structs import replace
from regrow_protocol import messages
from regrow_protocol.bus import Bus, Entry
from regrow_protocol.endpoints import BUCKET, EndpointsRecord, Grant, PublicName, grant_key, name_key, process_key
from regrow_protocol.errors import WrongRevision
from regrow_protocol.subjects import untoken
from regrow_service.kept import Changes, Kept
from regrow_service.logs import get_logger

KEEP = 600.0
"""Seconds that the record of what has ended stays."""
CONFLICTS = 100

Change = Callable[[EndpointsRecord | None], EndpointsRecord | None]
"""The new record of a process, or None to leave it; given None where there is none."""


class _Batch:
    """Changes of one record that are to be written together."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting: list[tuple[Change, asyncio.Future[EndpointsRecord | None]]] = []


class Records(Changes):
    """The bucket; `run` follows it. Told is each public name whose process, or what that serves, may have changed.

    Attributes:
        current: set once all that stood there is known.
        living: pid → app of processes with endpoints.
        public: by pid, records of living processes that want a public name.
        names: by name, who has it.
        grants: by id, those that were not revoked.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self.current = asyncio.Event()
        self.living: dict[str, str] = {}
        self.public: dict[str, Kept[EndpointsRecord]] = {}
        self.names: dict[str, Kept[PublicName]] = {}
        self.grants: dict[str, Kept[Grant]] = {}
        self._kv = bus.kv(BUCKET)
        self._bus = bus
        self._changing: dict[str, _Batch] = {}
        self._log = get_logger("records")

    async def run(self) -> None:
        """Follow the bucket, for ever; may be cancelled at any moment."""
        watcher = self._kv.watch(">", self._entry)
        try:
            await watcher.current
            self.current.set()
            await asyncio.Event().wait()
        finally:
            await watcher.stop()

    # processes --------------------------------------------------------------------------------------------------------

    async def process(self, pid: str) -> EndpointsRecord | None:
        """What a process serves, as it stands in the bucket; None for one that has ended, or never exposed anything."""
        found = await self._read(pid)
        return None if found is None or found.record.ended else found.record

    async def change(self, pid: str, change: Change, *, gather: float = 0.0) -> EndpointsRecord | None:
        """Change the record of a process; what stands there then.

        What several commands want to change while one is written, or waits for `gather` seconds, is written at once.
        """
        batch = self._changing.setdefault(pid, _Batch())
        done: asyncio.Future[EndpointsRecord | None] = asyncio.get_running_loop().create_future()
        batch.waiting.append((change, done))
        async with batch.lock:
            if not done.done():
                await asyncio.sleep(gather)
                await self._write_batch(pid, batch)
        if not batch.waiting and not batch.lock.locked() and self._changing.get(pid) is batch:
            del self._changing[pid]
        return done.result()

    async def _write_batch(self, pid: str, batch: _Batch) -> None:
        taken, batch.waiting = batch.waiting, []
        try:
            result = await self._write(pid, [change for change, _ in taken])
        except BaseException as error:
            for _, done in taken:
                if not done.done():
                    done.set_exception(
                        error if isinstance(error, Exception) else WrongRevision(f"{pid} was not written")
                    )
                    done.exception()  # whoever asked may be gone
            raise
        for _, done in taken:
            if not done.done():
                done.set_result(result)

    async def _write(self, pid: str, changes: list[Change]) -> EndpointsRecord | None:
        kept = None if pid not in self.living else await self._read(pid)
        for _ in range(CONFLICTS):
            old = new = kept.record if kept else None
            for change in changes:
                new = change(new) or new
            if new is None or new == old:
                return old
            ttl = KEEP if new.ended else None
            body = messages.encode(new)
            try:
                if kept is None:
                    await self._kv.create(process_key(pid), body, ttl=ttl)
                else:
                    await self._kv.update(process_key(pid), body, kept.revision, ttl=ttl)
            except WrongRevision:
                kept = await self._read(pid)
                continue
            return new
        raise WrongRevision(f"The record of {pid} was changed by others {CONFLICTS} times")

    async def _read(self, pid: str) -> Kept[EndpointsRecord] | None:
        found = await self._kv.get(process_key(pid))
        return None if found is None else Kept(messages.decode(found[0], EndpointsRecord), found[1])

    # names ------------------------------------------------------------------------------------------------------------

    async def settle(self, name: str, candidate: EndpointsRecord | None = None) -> None:
        """Give a public name to the process that shall have it: who has it, while that lives; else the oldest one.

        Args:
            name: that some process had or wants.
            candidate: one that wants it, as it is written; others are those that are known here.
        """
        key = name_key(name)
        for _ in range(CONFLICTS):
            found = await self._kv.get(key)
            holder = messages.decode(found[0], PublicName) if found else None
            if holder is not None and await self._wants(holder.pid, name):
                return
            heir = await self._heir(name, candidate)
            try:
                if heir is not None:
                    body = messages.encode(PublicName(heir.pid, heir.app))
                    await (self._kv.update(key, body, found[1]) if found else self._kv.create(key, body))
                elif found is not None:
                    await self._kv.delete(key, found[1])
            except WrongRevision:
                continue
            if heir is None or await self._wants(heir.pid, name):
                return  # else it has ended meanwhile, and who wrote that may have looked before us
        raise WrongRevision(f"The name {name} was changed by others {CONFLICTS} times")

    async def claim(self, record: EndpointsRecord) -> None:
        """A process that is written down wants a public name; of several the first one gets it."""
        try:
            await self._kv.create(name_key(record.name), messages.encode(PublicName(record.pid, record.app)))
        except WrongRevision:
            await self.settle(record.name, record)
            return
        if not await self._wants(record.pid, record.name):
            await self.settle(record.name)

    def has_name(self, record: EndpointsRecord) -> bool:
        """Whether a living process has the public name that it wants, as far as is known here."""
        holder = self.names.get(record.name)
        return holder is not None and holder.record.pid == record.pid

    async def holder(self, name: str) -> PublicName | None:
        """The process that has a public name."""
        found = await self._kv.get(name_key(name))
        return messages.decode(found[0], PublicName) if found else None

    async def _wants(self, pid: str, name: str) -> bool:
        record = await self.process(pid)
        return record is not None and record.name == name

    async def _heir(self, name: str, candidate: EndpointsRecord | None) -> EndpointsRecord | None:
        known = [kept.record for kept in self.public.values() if kept.record.name == name]
        known += [candidate] if candidate is not None else []
        for record in sorted(known, key=lambda record: (record.created, record.pid)):
            if await self._wants(record.pid, name):
                return record
        return None

    # grants -----------------------------------------------------------------------------------------------------------

    async def grant(self, grant: Grant) -> None:
        """Write a grant, unless one of its id stands there, or stood until a while ago."""
        ttl = max(grant.expires - time.time(), 1.0) if grant.expires else None
        try:
            await self._kv.create(grant_key(grant.agent, grant.id), messages.encode(grant), ttl=ttl)
        except WrongRevision:
            return  # by who handled the same command before; it may be revoked by now

    async def revoke(self, id_: str, only: Callable[[Grant], bool]) -> Grant | None:
        """End a grant; what it was, or None where there is none that `only` accepts."""
        last = await self._bus.last(self._kv.stream, self._kv.prefix + grant_key("*", id_))
        if last is None or not last.data:
            return None
        grant = messages.decode(last.data, Grant)
        if not only(grant):
            return None
        if not is_over(grant):
            over = replace(grant, expires=min(grant.expires or time.time(), time.time()))
            try:
                await self._kv.update(grant_key(grant.agent, id_), messages.encode(over), last.seq, ttl=KEEP)
            except WrongRevision:
                return await self.revoke(id_, only)
        return grant

    # following --------------------------------------------------------------------------------------------------------

    def _entry(self, entry: Entry) -> None:
        kind, _, rest = entry.key.partition(".")
        follow = {"process": self._process_entry, "name": self._name_entry, "grant": self._grant_entry}.get(kind)
        if follow is None:
            return
        try:
            follow(rest, entry)
        except msgspec.MsgspecError as error:
            self._log.error("a record that does not decode", key=entry.key, reason=str(error))

    def _process_entry(self, pid: str, entry: Entry) -> None:
        record = messages.decode(entry.value, EndpointsRecord) if entry.operation == "put" else None
        old = self.public.pop(pid, None)
        if record is None or record.ended:
            self.living.pop(pid, None)
        else:
            self.living[pid] = record.app
            if record.name:
                self.public[pid] = Kept(record, entry.revision)
        for name in {kept.record.name for kept in (old, self.public.get(pid)) if kept is not None}:
            self.tell(name)

    def _name_entry(self, _: str, entry: Entry) -> None:
        name = untoken(entry.key.removeprefix("name."))
        if entry.operation == "put":
            self.names[name] = Kept(messages.decode(entry.value, PublicName), entry.revision)
        else:
            self.names.pop(name, None)
        self.tell(name)

    def _grant_entry(self, rest: str, entry: Entry) -> None:
        grant = messages.decode(entry.value, Grant) if entry.operation == "put" else None
        id_ = rest.rpartition(".")[2]
        if grant is None or is_over(grant):
            self.grants.pop(id_, None)
        else:
            self.grants[id_] = Kept(grant, entry.revision)

    def serving(self, name: str) -> EndpointsRecord | None:
        """What the process that has a public name serves, as far as is known here."""
        holder = self.names.get(name)
        kept = self.public.get(holder.record.pid) if holder is not None else None
        return kept.record if kept is not None and kept.record.name == name else None


def is_over(grant: Grant) -> bool:
    """Whether a grant has expired or was revoked."""
    return bool(grant.expires) and grant.expires <= time.time()
