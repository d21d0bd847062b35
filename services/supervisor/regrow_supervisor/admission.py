"""Permits: who may begin under a limit, given in an order that is fair, exactly as many as the limit allows.

Whoever asks is written down (`wait.…`) before its command is taken off the queue. A permit is given by a
compare-and-set of the limit's `permits.…`, then answered, then its `wait.…` is removed; who dies in between is made up
for by any supervisor that looks at it next, for answers have derived ids. So two supervisors give no permit too many,
and none is lost. Next is who has the highest priority, a minute of waiting counted as one; of those, who belongs to the
parent with the fewest permits; of those, who has waited longest. A limit `per` type or tag is counted in each of these
pools by itself.

A permit is given back by its process, with its process's end or next incarnation, and when no host of its app has lived
for the grace: then nobody uses it. The news of an end may be here before that of the permit: ends are remembered.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict

import msgspec
from msgspec.structs import replace
from regrow_protocol import limits, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus, Entry, Received
from regrow_protocol.errors import RegrowError, WrongRevision
from regrow_protocol.limits import Acquire, Holder, Limit, Permits, Release, Waiting, permits_key, permits_of
from regrow_protocol.messages import Command, EventRecord
from regrow_service.answers import Answer, Answers, checked
from regrow_service.consumer import Consumer, Rejected
from regrow_service.logs import get_logger
from regrow_service.metrics import Metrics

from .hosts import Hosts, clock
from .measures import PERMITS
from .records import ENDS

AGEING = 60.0
"""Seconds of waiting that count as one step of priority."""
LOOK = 0.25
"""Seconds between looks at what only time changes."""
REMEMBERED = 10_000
"""Processes whose ends are remembered."""
WITHDRAWN = b""
"""In place of a wait that was released."""
ANSWERED = Answer(value=msgspec.Raw(b"null"))


class Admission:
    """Of one supervisor; `run` and the two consumers do the work."""

    def __init__(self, bus: Bus, hosts: Hosts, metrics: Metrics, service: str, grace: float) -> None:
        self._bus, self._hosts, self._grace = bus, hosts, grace
        self._kv = bus.kv(limits.BUCKET)
        self._answers = Answers(bus)
        self._limits: dict[str, Limit] = {}
        self._waiting: dict[str, dict[str, Waiting]] = defaultdict(dict)
        self._permits: dict[tuple[str, str], Permits] = {}
        self._deserted: dict[str, float] = {}
        self._over: dict[str, float] = {}  # by pid, the incarnation before which all are over
        self._stirred: set[str] = set()
        self._stir = asyncio.Event()
        self._given = metrics[PERMITS]
        self._log = get_logger("admission")
        self.commands: Consumer[Command] = Consumer(
            bus, metrics, service=service, name="supervisor-admission", stream=streams.COMMANDS,
            filters=[limits.COMMANDS], decode=lambda data: m.decode(data, Command), handle=self._handle,
        )  # fmt: skip
        self.ends: Consumer[EventRecord] = Consumer(
            bus, metrics, service=service, name="supervisor-admission-ends", stream=streams.EVENTS,
            filters=[subjects.events_of(type_=type_) for type_ in ("restarted", *sorted(ENDS))],
            decode=lambda data: m.decode(data, EventRecord), handle=self._ended, concurrency=64, only_new=True,
        )  # fmt: skip

    async def run(self) -> None:
        """Give permits, for ever; may be cancelled at any moment."""
        watcher = self._kv.watch(">", self._entry)
        try:
            await watcher.current
            while True:
                try:
                    async with asyncio.timeout(LOOK if any(self._waiting.values()) else 4 * LOOK):
                        await self._stir.wait()
                except TimeoutError:
                    self._stirred.update(name for name, waiting in self._waiting.items() if waiting)
                self._stir.clear()
                names, self._stirred = self._stirred, set()
                try:
                    for name in sorted(names):
                        await self._give(name)
                    await self._take_back_from_ended()
                    await self._take_back()
                except RegrowError as error:
                    self._log.warning("permits wait", reason=str(error))
                    self._stirred |= names
                    await asyncio.sleep(LOOK)
        finally:
            await watcher.stop()

    # what is asked ----------------------------------------------------------------------------------------------------

    async def _handle(self, command: Command, message: Received) -> None:
        checked(command, message.subject.rpartition(".")[2])
        if command.name == "release":
            release = m.decode(command.args, Release)
            await self._kv.put(_wait_key(release.limit, release.permit), WITHDRAWN, ttl=60.0)
            await self._release(release.limit, release.permit)
            return
        if command.name != "acquire" or command.by is None:
            raise Rejected(f"{command.name!r} is nothing that is done about permits")
        acquire = m.decode(command.args, Acquire)
        if acquire.limit not in self._limits and await self._kv.get(f"limit.{subjects.token(acquire.limit)}") is None:
            await self._answers.send(command, ANSWERED)
            return
        waiting = Waiting(
            command=command, limit=acquire.limit, priority=acquire.priority, parent=acquire.parent,
            type=acquire.type, tags=acquire.tags, since=time.time(),
        )  # fmt: skip
        try:
            await self._kv.create(_wait_key(acquire.limit, command.id), m.encode(waiting))
        except WrongRevision:
            return  # it was written down before, or its release came first

    async def _ended(self, event: EventRecord, message: Received) -> None:
        del message
        if not event.final and event.meta is None:
            return
        self._over[event.pid] = max(self._over.pop(event.pid, 0.0), math.inf if event.final else event.incarnation)
        if len(self._over) > REMEMBERED:
            del self._over[next(iter(self._over))]
        await self._take_back_from_ended()

    async def _take_back_from_ended(self) -> None:
        """Permits of incarnations that are over."""
        for (name, pool), permits in list(self._permits.items()):
            gone = {
                id_ for id_, holder in permits.holders.items() if holder.incarnation < self._over.get(holder.pid, 0.0)
            }
            if gone:
                await self._remove(name, pool, gone)

    async def _take_back(self) -> None:
        """Permits of apps without hosts."""
        if not self._hosts.available:
            return
        now, alive = clock(), {host.app for host in self._hosts.living()}
        holding = {holder.app for permits in self._permits.values() for holder in permits.holders.values()}
        self._deserted = {app: self._deserted.get(app, now) for app in holding - alive}
        late = {app for app, since in self._deserted.items() if now - since >= self._grace}
        for (name, pool), permits in list(self._permits.items()):
            gone = {id_ for id_, holder in permits.holders.items() if holder.app in late}
            if gone:
                self._log.info("permits taken back: their apps have no host", limit=name, permits=len(gone))
                await self._remove(name, pool, gone)

    # giving -----------------------------------------------------------------------------------------------------------

    async def _give(self, name: str) -> None:
        """All permits of a limit that there are."""
        for pool in {self._pool(name, each) for each in self._waiting[name].values()}:
            await self._give_in(name, pool)

    def _pool(self, name: str, waiting: Waiting) -> str:
        limit = self._limits.get(name)
        return limit.pool_of(waiting.type, waiting.tags) if limit is not None else ""

    async def _give_in(self, name: str, pool: str) -> None:
        """All permits of a pool that there are."""
        while True:
            permits, revision = await self._read(name, pool)
            waiting = {id_: each for id_, each in self._waiting[name].items() if self._pool(name, each) == pool}
            if not waiting:
                return
            now = time.time()
            # who was given a permit by somebody that died before saying so, or everybody where the limit is gone
            limit = self._limits.get(name)
            told = [each for id_, each in waiting.items() if limit is None or id_ in permits.holders]
            for each in told:
                await self._tell(name, each)
            if told:
                continue
            assert limit is not None
            given = [at for at in permits.given if at > now - limit.period] if limit.rate else []
            full = limit.concurrency and len(permits.holders) >= limit.concurrency
            if full or (limit.rate and len(given) >= limit.rate):
                return
            chosen = _next(list(waiting.values()), permits, now)
            by = chosen.command.by
            assert by is not None
            holder = Holder(chosen.command.app, by.pid, by.incarnation, chosen.parent, now)
            new = Permits(
                holders={**permits.holders, chosen.command.id: holder}, given=[*given, now] if limit.rate else []
            )
            if not await self._write(name, pool, new, revision):
                continue
            if await self._withdrawn(name, chosen):  # its release saw no permit yet
                self._waiting[name].pop(chosen.command.id, None)
                await self._remove(name, pool, {chosen.command.id})
                continue
            self._given.labels(name).inc()
            await self._tell(name, chosen)

    async def _withdrawn(self, name: str, waiting: Waiting) -> bool:
        found = await self._kv.get(_wait_key(name, waiting.command.id))
        return found is not None and found[0] == WITHDRAWN

    async def _tell(self, name: str, waiting: Waiting) -> None:
        try:
            await self._answers.send(waiting.command, ANSWERED)
        except Rejected as error:
            self._log.warning("a permit cannot be told", limit=name, command=waiting.command.id, reason=str(error))
        await self._kv.purge(_wait_key(name, waiting.command.id), marker_ttl=60.0)
        self._waiting[name].pop(waiting.command.id, None)

    async def _release(self, name: str, permit: str) -> None:
        """Take back a permit, whichever pool it is of."""
        pools = {
            pool for (limit, pool), permits in self._permits.items() if limit == name and permit in permits.holders
        }
        if not pools and (limit := self._limits.get(name)) is not None and limit.per:  # the news of it is on its way
            keys = [entry.key async for entry in self._kv.items(f"{permits_key(name, '')}.*")]
            pools = {permits_of(key)[1] for key in keys}
        for pool in pools or {""}:
            await self._remove(name, pool, {permit})

    async def _remove(self, name: str, pool: str, ids: set[str]) -> None:
        while True:
            permits, revision = await self._read(name, pool)
            kept = {id_: holder for id_, holder in permits.holders.items() if id_ not in ids}
            if len(kept) == len(permits.holders):
                return
            if await self._write(name, pool, replace(permits, holders=kept), revision):
                return

    async def _read(self, name: str, pool: str) -> tuple[Permits, int]:
        found = await self._kv.get(permits_key(name, pool))
        return (m.decode(found[0], Permits), found[1]) if found is not None else (Permits(), 0)

    async def _write(self, name: str, pool: str, permits: Permits, revision: int) -> bool:
        key, body = permits_key(name, pool), m.encode(permits)
        try:
            await (self._kv.update(key, body, revision) if revision else self._kv.create(key, body))
        except WrongRevision:
            return False
        return True

    # following --------------------------------------------------------------------------------------------------------

    def _entry(self, entry: Entry) -> None:
        kind, _, rest = entry.key.partition(".")
        token, _, id_ = rest.partition(".")
        name = subjects.untoken(token)
        there = entry.operation == "put"
        try:
            if kind == "limit":
                self._limits.pop(name, None)
                if there:
                    self._limits[name] = m.decode(entry.value, Limit)
            elif kind == "permits":
                self._permits[permits_of(entry.key)] = m.decode(entry.value, Permits) if there else Permits()
            elif kind == "wait":
                self._waiting[name].pop(id_, None)
                if there and entry.value != WITHDRAWN:
                    self._waiting[name][id_] = m.decode(entry.value, Waiting)
        except msgspec.MsgspecError as error:
            self._log.error("a record that does not decode", key=entry.key, reason=str(error))
            return
        self._stirred.add(name)
        self._stir.set()


def _wait_key(limit: str, id_: str) -> str:
    return f"wait.{subjects.token(limit)}.{id_}"


def _next(waiting: list[Waiting], permits: Permits, now: float) -> Waiting:
    """Whose turn it is."""
    held = Counter(holder.parent for holder in permits.holders.values())

    def rank(each: Waiting) -> tuple[int, int, float, str]:
        aged = each.priority + int((now - each.since) / AGEING)
        return -aged, held[each.parent], each.since, each.command.id

    return min(waiting, key=rank)
