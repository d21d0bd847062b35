"""What stands in `regrow_machines`, followed, and its changes by compare-and-set.

Kept in memory are machines that are not stopped or failed, snapshots, nodes and managers. A change that was written
here is known here at once. Records of machines that have ended stay for `KEEP` seconds, so that a late repeat of their
creation finds them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from regrow_protocol import messages
from regrow_protocol.bus import Bus, Entry
from regrow_protocol.errors import WrongRevision
from regrow_protocol.ids import new_id
from regrow_protocol.machines import MachineRecord, ManagerRecord, NodeRecord, SnapshotRecord
from regrow_protocol.subjects import token
from regrow_service.kept import Changes, Kept
from regrow_service.logs import get_logger

BUCKET = "regrow_machines"
KEEP = 7 * 86_400.0
MANAGER_TTL = 2.0
CONFLICTS = 100
REMEMBERED = 10_000
ENDED = frozenset({"stopped", "failed"})


def node_key(node: str) -> str:
    """Key of a node's record."""
    return f"node.{token(node)}"


class Records(Changes):
    """The bucket; `run` follows it. Changes are told by the id of the machine, with "" for a node, manager or snapshot.

    Attributes:
        current: set once all that stood there is known.
        machines: by id, those that have not ended.
        requested: ids of those that wait for a node with room.
        owned: pid → ids of the machines that the process owns.
        nodes: by name.
        managers: by id, those whose keys stand.
        snapshots: by id.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self.current = asyncio.Event()
        self.machines: dict[str, Kept[MachineRecord]] = {}
        self.requested: set[str] = set()
        self.owned: dict[str, set[str]] = {}
        self.nodes: dict[str, Kept[NodeRecord]] = {}
        self.managers: dict[str, ManagerRecord] = {}
        self.snapshots: dict[str, Kept[SnapshotRecord]] = {}
        self._bus = bus
        self._kv = bus.kv(BUCKET)
        self._ended: dict[str, int] = {}
        self._missing_since: dict[str, float] = {}
        self._since = 0.0
        self._log = get_logger("records")

    async def run(self) -> None:
        """Follow the bucket, for ever; may be cancelled at any moment."""
        watcher = self._kv.watch(">", self._entry)
        try:
            await watcher.current
            self._since = asyncio.get_running_loop().time()
            self.current.set()
            await asyncio.Event().wait()
        finally:
            await watcher.stop()

    async def store(self) -> str:
        """Id of this store, made by who asks first."""
        return (await self._kv.get_or_create("store", lambda: new_id("store").encode())).decode()

    # machines ---------------------------------------------------------------------------------------------------------

    def live(self, id_: str) -> MachineRecord | None:
        """A machine that has not ended, as far as is known here."""
        kept = self.machines.get(id_)
        return kept.record if kept else None

    async def fetch(self, id_: str) -> MachineRecord | None:
        """A machine, ended ones too, as it stands in the bucket."""
        kept = await self._read(id_)
        return kept.record if kept else None

    async def create(self, record: MachineRecord) -> bool:
        """Write the record of a new machine; false when there is one of that id."""
        try:
            revision = await self._kv.create(
                f"machine.{record.id}", messages.encode(record), ttl=KEEP if record.state in ENDED else None
            )
        except WrongRevision:
            return False
        self._know(record, revision)
        return True

    async def change(
        self, id_: str, how: Callable[[MachineRecord], MachineRecord | None]
    ) -> tuple[MachineRecord | None, bool]:
        """Change a machine's record by compare-and-set; (the record as it stands then, whether it was changed).

        Args:
            id_: of the machine.
            how: the new record, or None to leave it; asked again after a conflict. None of it when there is no record.
        """
        kept = self.machines.get(id_) or await self._read(id_)
        for _ in range(CONFLICTS):
            if kept is None:
                return None, False
            new = how(kept.record)
            if new is None:
                return kept.record, False
            try:
                revision = await self._kv.update(
                    f"machine.{id_}", messages.encode(new), kept.revision, ttl=KEEP if new.state in ENDED else None
                )
            except WrongRevision:
                kept = await self._read(id_)
                continue
            self._know(new, revision)
            return new, True
        raise WrongRevision(f"The record of {id_} was changed by others {CONFLICTS} times")

    async def remove(self, id_: str) -> None:
        """Remove a machine's record without a trace but for watchers."""
        await self._kv.purge(f"machine.{id_}", marker_ttl=60.0)

    async def _read(self, id_: str) -> Kept[MachineRecord] | None:
        found = await self._kv.get(f"machine.{id_}")
        if found is None:
            return None
        record = messages.decode(found[0], MachineRecord)
        self._know(record, found[1])
        return Kept(record, found[1])

    def _know(self, record: MachineRecord, revision: int) -> None:
        id_ = record.id
        kept = self.machines.get(id_)
        if revision < max(kept.revision if kept else 0, self._ended.get(id_, 0)):
            return
        if record.state in ENDED:
            self._drop(id_)
            self._end(id_, revision)
        else:
            if kept and kept.revision == revision:
                return
            self._drop(id_)
            self.machines[id_] = Kept(record, revision)
            if record.state == "requested":
                self.requested.add(id_)
            if record.owner:
                self.owned.setdefault(record.owner.pid, set()).add(id_)
        self.tell(id_)

    def _end(self, id_: str, revision: int) -> None:
        """Older states may still be on their way here: a watch and a write's answer overtake each other."""
        self._ended[id_] = revision
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]

    def _drop(self, id_: str) -> None:
        kept = self.machines.pop(id_, None)
        self.requested.discard(id_)
        if kept and (owner := kept.record.owner) and (owned := self.owned.get(owner.pid)):
            owned.discard(id_)
            if not owned:
                del self.owned[owner.pid]

    # nodes and managers -----------------------------------------------------------------------------------------------

    async def change_node(self, node: str, how: Callable[[NodeRecord], NodeRecord | None]) -> tuple[NodeRecord, bool]:
        """As `change`, of a node's record, which is made when it is not there."""
        kept = self.nodes.get(node)
        for _ in range(CONFLICTS):
            record = kept.record if kept else NodeRecord(node=node)
            new = how(record)
            if new is None or new == record:
                return record, False
            key, body = node_key(node), messages.encode(new)
            try:
                revision = await (self._kv.update(key, body, kept.revision) if kept else self._kv.create(key, body))
            except WrongRevision:
                found = await self._kv.get(key)
                kept = Kept(messages.decode(found[0], NodeRecord), found[1]) if found else None
                continue
            self._know_node(Kept(new, revision))
            return new, True
        raise WrongRevision(f"The record of node {node} was changed by others {CONFLICTS} times")

    async def read_nodes(self) -> None:
        """Read the nodes' records: what others wrote a moment ago may not be known here."""
        for found in await asyncio.gather(*[self._kv.get(node_key(node)) for node in self.nodes]):
            if found is not None:
                self._know_node(Kept(messages.decode(found[0], NodeRecord), found[1]))

    def _know_node(self, kept: Kept[NodeRecord]) -> None:
        known = self.nodes.get(kept.record.node)
        if known is None or known.revision < kept.revision:
            self.nodes[kept.record.node] = kept
            self.tell("")

    async def renew(self, manager: ManagerRecord) -> None:
        """Say that a manager is alive, for the next `MANAGER_TTL` seconds."""
        await self._kv.put(f"manager.{manager.id}", messages.encode(manager), ttl=MANAGER_TTL)

    async def leave(self, manager: str) -> None:
        """Say that a manager has ended."""
        await self._kv.purge(f"manager.{manager}", marker_ttl=60.0)

    def manager_gone(self, id_: str) -> bool:
        """Whether a manager has ended for sure: its key was away for long enough while it could have been renewed."""
        return id_ not in self.managers and self._away(f"manager {id_}") > MANAGER_TTL / 2

    def node_gone(self, node: str, seconds: float = MANAGER_TTL) -> bool:
        """Whether no manager of a node was there for that long."""
        return not self.node_lives(node) and self._away(f"node {node}") > seconds

    def node_lives(self, node: str) -> bool:
        """Whether the key of a manager of the node stands."""
        return any(manager.node == node for manager in self.managers.values())

    async def manned(self, node: str) -> bool:
        """Whether the key of a manager of the node stands, as the bucket says."""
        async for entry in self._kv.items("manager.*"):
            if entry.operation == "put" and messages.decode(entry.value, ManagerRecord).node == node:
                return True
        return False

    def settled(self, seconds: float = MANAGER_TTL) -> bool:
        """The connection was there for so long that every living manager has a key."""
        return asyncio.get_running_loop().time() - max(self._since, self._bus.connected_since) > seconds

    def _away(self, what: str) -> float:
        since = max(self._missing_since.get(what, 0.0), self._since, self._bus.connected_since)
        return asyncio.get_running_loop().time() - since if self._bus.connected else 0.0

    # snapshots --------------------------------------------------------------------------------------------------------

    async def snapshot(self, id_: str) -> SnapshotRecord | None:
        """A snapshot as it stands in the bucket."""
        found = await self._kv.get(f"snapshot.{id_}")
        return messages.decode(found[0], SnapshotRecord) if found else None

    async def keep_snapshot(self, record: SnapshotRecord) -> None:
        """Write a snapshot's record, unless it is there."""
        try:
            await self._kv.create(f"snapshot.{record.id}", messages.encode(record))
        except WrongRevision:
            return  # by who handled the same command before

    async def forget_snapshot(self, id_: str) -> None:
        """Remove a snapshot's record."""
        await self._kv.purge(f"snapshot.{id_}", marker_ttl=60.0)

    # following --------------------------------------------------------------------------------------------------------

    def _entry(self, entry: Entry) -> None:
        kind, _, name = entry.key.partition(".")
        follow = {
            "machine": self._machine_entry,
            "node": self._node_entry,
            "manager": self._manager_entry,
            "snapshot": self._snapshot_entry,
        }.get(kind)
        if follow is None:
            return
        try:
            follow(name, entry)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._log.error("a record that does not decode", key=entry.key, reason=str(error))

    def _machine_entry(self, name: str, entry: Entry) -> None:
        if entry.operation == "put":
            self._know(messages.decode(entry.value, MachineRecord), entry.revision)
        else:
            if entry.revision:
                self._end(name, entry.revision)
            kept = self.machines.get(name)
            if kept and (entry.revision == 0 or entry.revision > kept.revision):
                self._drop(name)
                self.tell(name)

    def _node_entry(self, name: str, entry: Entry) -> None:
        if entry.operation == "put":
            self._know_node(Kept(messages.decode(entry.value, NodeRecord), entry.revision))
        else:
            for node in [node for node in self.nodes if token(node) == name]:
                del self.nodes[node]
            self.tell("")

    def _manager_entry(self, name: str, entry: Entry) -> None:
        now = asyncio.get_running_loop().time()
        if entry.operation == "put":
            new = messages.decode(entry.value, ManagerRecord)
            if self.managers.get(name) != new:
                self.managers[name] = new
                self._missing_since.pop(f"manager {name}", None)
                self.tell("")
        elif (old := self.managers.pop(name, None)) is not None:
            # an end that was announced is one at once
            away_since = now - MANAGER_TTL if entry.operation != "expired" else now
            self._missing_since = {k: v for k, v in self._missing_since.items() if now - v < 3600.0}
            self._missing_since[f"manager {name}"] = away_since
            if not self.node_lives(old.node):
                self._missing_since[f"node {old.node}"] = now
            self.tell("")

    def _snapshot_entry(self, name: str, entry: Entry) -> None:
        if entry.operation == "put":
            self.snapshots[name] = Kept(messages.decode(entry.value, SnapshotRecord), entry.revision)
        else:
            self.snapshots.pop(name, None)


Background = Callable[[Coroutine[Any, Any, None], str], None]
"""Runs a coroutine for as long as the service runs; it must see to its own errors."""
