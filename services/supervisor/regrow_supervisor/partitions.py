"""Who owns which partition: keeps `own.<app>.<build>.<part>` in `regrow_partitions` assigned to living hosts.

Every build of an app with hosts has all its partitions owned by them. What a dead host owned goes to the others at
once; when none is left it stays as it is until one comes, which then gets it at once. Between living hosts partitions
move only when one has come or gone, after a short quiet time, and as few as possible. Every change of owner raises the
epoch: the old owner sees it in its watch and stops, the new one reads the cursor and writes it under its epoch.

All writes are compare-and-set against what was seen, and the decision is a function of that; so two supervisors do no
harm to each other: one of them is first, the other sees it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

import msgspec
from msgspec import Struct
from regrow_protocol import messages
from regrow_protocol.bus import Bus, Entry
from regrow_protocol.errors import RegrowError, WrongRevision
from regrow_protocol.messages import AppRecord, BuildRecord, HostRecord, Ownership
from regrow_protocol.subjects import token, untoken
from regrow_service.logs import get_logger
from regrow_service.metrics import Metrics

from .assignment import balance, fill
from .hosts import Change, Group, Hosts, clock
from .measures import MOVES, OWNED, TAKEOVERS

BUCKET = "regrow_partitions"
SETTLE = 0.2
"""Seconds of quiet before partitions move between living hosts."""
AGAIN = 0.5


class Owned(Struct, frozen=True):
    """A partition's owner as it was last seen.

    Attributes:
        ownership: the record.
        revision: of its key.
        since: when this owner was first seen here, by `clock`.
    """

    ownership: Ownership
    revision: int
    since: float


class Partitions:
    """Assigns partitions; `run` does it.

    Args:
        bus: connected; the bucket exists.
        hosts: followed by its own task.
        metrics: where to count.
        partitions: of an app that is new.

    Attributes:
        owners: by group and partition.
        builds: when each build was first seen, as far as that is recorded.
    """

    def __init__(self, bus: Bus, hosts: Hosts, metrics: Metrics, partitions: int) -> None:
        self.owners: dict[Group, dict[int, Owned]] = defaultdict(dict)
        self.builds: dict[Group, float] = {}
        self._kv = bus.kv(BUCKET)
        self._hosts = hosts
        self._partitions = partitions
        self._apps: dict[str, int] = {}
        self._urgent: set[Group] = set()
        self._quiet_at: dict[Group, float] = {}
        self._dead: dict[Group, list[Change]] = defaultdict(list)
        self._wake = asyncio.Event()
        self._metrics = metrics
        self._log = get_logger("partitions")
        hosts.subscribe(self._host_changed)

    async def run(self) -> None:
        """Assign, for ever; may be cancelled at any moment."""
        watcher = self._kv.watch(">", self._entry)
        try:
            await watcher.current
            await self._hosts.current.wait()
            self._touch(*self._known())
            while True:
                await self._turn()
        finally:
            await watcher.stop()

    def count(self, app: str) -> int | None:
        """How many partitions the app has; None when it was never seen."""
        return self._apps.get(app)

    async def _turn(self) -> None:
        """Wait until something is to be looked at, and look at it."""
        if not self._urgent:
            now = clock()
            wait = min((at - now for at in self._quiet_at.values()), default=AGAIN)
            self._wake.clear()
            try:
                async with asyncio.timeout(max(min(wait, AGAIN), 0)):
                    await self._wake.wait()
            except TimeoutError:
                pass  # the quiet time of some group may be over
        now = clock()
        quiet = {group for group, at in self._quiet_at.items() if at <= now}
        for group in quiet:
            del self._quiet_at[group]
        urgent, self._urgent = self._urgent, set()
        await asyncio.gather(*[self._look(group, move=group in quiet) for group in sorted(urgent | quiet)])

    # what is seen -----------------------------------------------------------------------------------------------------

    def _known(self) -> set[Group]:
        return {*self.owners, *self.builds, *[Group(host.app, host.build) for host in self._hosts.living()]}

    def _touch(self, *groups: Group) -> None:
        quiet_at = clock() + SETTLE
        for group in groups:
            self._urgent.add(group)
            self._quiet_at[group] = quiet_at
        self._wake.set()

    def _host_changed(self, change: Change) -> None:
        if change.host is None:
            self._touch(*self._known())
            return
        group = Group(change.host.app, change.host.build)
        if change.news == "died":
            self._dead[group].append(change)
        if change.news == "changed":  # of whatever build it was before
            self._touch(*[known for known in self.owners if known.app == group.app])
        self._touch(group)

    def _entry(self, entry: Entry) -> None:
        parts = entry.key.split(".")
        put = entry.operation == "put"
        try:
            match parts:
                case ["app", app]:
                    name = untoken(app)
                    if put:
                        self._apps[name] = messages.decode(entry.value, AppRecord).partitions
                    self._touch(*[group for group in self._known() if group.app == name])
                case ["build", app, build]:
                    group = Group(untoken(app), build)
                    if put:
                        self.builds[group] = messages.decode(entry.value, BuildRecord).created
                    else:
                        self.builds.pop(group, None)
                case ["own", app, build, part]:
                    group = Group(untoken(app), build)
                    if put:
                        self._seen(group, int(part), messages.decode(entry.value, Ownership), entry.revision)
                    else:
                        self.owners[group].pop(int(part), None)
                    self._touch(group)
                case _:
                    self._log.debug("a key of no concern", key=entry.key)
        except (msgspec.MsgspecError, ValueError) as error:
            self._log.warning("a record does not decode", key=entry.key, reason=str(error))

    def _seen(self, group: Group, part: int, ownership: Ownership, revision: int) -> None:
        before = self.owners[group].get(part)
        if before is not None and before.revision >= revision:
            return
        same = before is not None and before.ownership.host == ownership.host
        self.owners[group][part] = Owned(ownership, revision, before.since if before and same else clock())

    # what is done -----------------------------------------------------------------------------------------------------

    async def _look(self, group: Group, *, move: bool) -> None:
        """Assign what must be assigned; with `move`, balance too."""
        members = self._hosts.of(group)
        if members and group.app not in self._apps:
            await self._create_app(group.app)
            return
        able = [host.host for host in members if self._hosts.alive(host) and not host.draining]
        owned = self.owners[group]
        kept = {part for part, owner in owned.items() if self._in_doubt(group, owner, able, members)}
        parts = [part for part in range(self._apps.get(group.app, 0)) if part not in kept]
        current = {part: owner.ownership.host for part, owner in owned.items()}
        assign = balance if move and not kept else fill
        target = {part: host for part, host in assign(able, parts, current).items() if current.get(part) != host}
        try:
            written = await asyncio.gather(*[self._write(group, part, host) for part, host in target.items()])
        except RegrowError as error:
            self._log.warning("owners could not be written", app=group.app, build=group.build, reason=str(error))
            self._quiet_at[group] = clock() + AGAIN
            return
        if kept:
            self._quiet_at.setdefault(group, clock() + SETTLE)  # doubts end by themselves: look again
        self._report(group, target, current, {part for part, ours in zip(target, written, strict=True) if ours})
        self._measure(group.app)

    def _in_doubt(self, group: Group, owner: Owned, able: list[str], members: list[HostRecord]) -> bool:
        """Its owner may live, but cannot be given more."""
        host = owner.ownership.host
        if not host or host in able:
            return False
        draining = any(member.host == host and self._hosts.alive(member) for member in members)
        return not draining and not self._hosts.dead(group.app, host, owner.since)

    async def _write(self, group: Group, part: int, host: str) -> bool:
        """Make `host` the owner; false when somebody else was faster (the watch tells who)."""
        before = self.owners[group].get(part)
        ownership = Ownership(host, before.ownership.epoch + 1 if before else 1)
        key = f"own.{token(group.app)}.{group.build}.{part}"
        value = messages.encode(ownership)
        try:
            if before is None:
                revision = await self._kv.create(key, value)
            else:
                revision = await self._kv.update(key, value, before.revision)
        except WrongRevision:
            return False
        self._seen(group, part, ownership, revision)
        self._metrics[MOVES].labels(group.app).inc()
        return True

    async def _create_app(self, app: str) -> None:
        try:
            await self._kv.create(f"app.{token(app)}", messages.encode(AppRecord(partitions=self._partitions)))
        except WrongRevision:
            return  # somebody else has; the watch tells
        except RegrowError as error:
            self._log.warning("a new app could not be recorded", app=app, reason=str(error))
            self._touch(*[group for group in self._known() if group.app == app])

    def _report(self, group: Group, target: dict[int, str], current: dict[int, str], written: set[int]) -> None:
        for change in self._dead.pop(group, ()):
            assert change.host is not None
            lost = sorted(part for part, owner in current.items() if owner == change.host.host)
            to = dict(Counter(target[part] for part in lost if part in target))
            self._metrics[TAKEOVERS].labels(group.app).inc(len(written.intersection(lost)))
            self._log.warning(
                "host died",
                host=change.host.host,
                app=group.app,
                build=group.build,
                reason=change.reason,
                partitions=lost,
                to=to or "nobody: no host of this build is left",
            )
        if target:
            moved = dict(Counter(target.values()))
            self._log.info("partitions assigned", app=group.app, build=group.build, to=moved, written=len(written))

    def _measure(self, app: str) -> None:
        living = {host.host for host in self._hosts.living()}
        owned = [o for group, parts in self.owners.items() if group.app == app for o in parts.values()]
        self._metrics[OWNED].labels(app).set(sum(owner.ownership.host in living for owner in owned))
