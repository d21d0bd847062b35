"""What stands in `regrow_agents`, followed, and its changes by compare-and-set.

Kept in memory are agents that have not ended. A change that was written here is known here at once. Records of agents
that have ended stay for `KEEP` seconds, so that lists show them and a late repeat of their enrolment finds them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import msgspec
from regrow_protocol import messages
from regrow_protocol.agents import BUCKET, AgentRecord
from regrow_protocol.bus import Bus, Entry
from regrow_protocol.errors import WrongRevision
from regrow_service.kept import Changes, Kept
from regrow_service.logs import get_logger

KEEP = 7 * 86_400.0
CONFLICTS = 100
REMEMBERED = 10_000
SECRET = "secret"  # noqa: S105 - the name of its key
ENDED = "ended"


class Records(Changes):
    """The bucket; `run` follows it. Changes are told by the id of the agent.

    Attributes:
        current: set once all that stood there is known.
        agents: by id, those that have not ended.
        owned: pid → ids of the agents that the process owns.
    """

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self.current = asyncio.Event()
        self.agents: dict[str, Kept[AgentRecord]] = {}
        self.owned: dict[str, set[str]] = {}
        self._kv = bus.kv(BUCKET)
        self._ended: dict[str, int] = {}
        self._log = get_logger("records")

    async def run(self) -> None:
        """Follow the bucket, for ever; may be cancelled at any moment."""
        watcher = self._kv.watch("agent.*", self._entry)
        try:
            await watcher.current
            self.current.set()
            await asyncio.Event().wait()
        finally:
            await watcher.stop()

    async def secret(self) -> bytes:
        """What this store's tokens are made with, made by who asks first."""
        return await self._kv.get_or_create(SECRET, lambda: secrets.token_bytes(32))

    def live(self, id_: str) -> AgentRecord | None:
        """An agent that has not ended, as far as is known here."""
        kept = self.agents.get(id_)
        return kept.record if kept else None

    async def fetch(self, id_: str) -> AgentRecord | None:
        """An agent, ended ones too, as it stands in the bucket."""
        kept = await self._read(id_)
        return kept.record if kept else None

    async def create(self, record: AgentRecord) -> bool:
        """Write the record of a new agent; false when there is one of that id."""
        try:
            revision = await self._kv.create(f"agent.{record.id}", messages.encode(record))
        except WrongRevision:
            return False
        self._know(record, revision)
        return True

    async def change(
        self, id_: str, how: Callable[[AgentRecord], AgentRecord | None]
    ) -> tuple[AgentRecord | None, bool]:
        """Change an agent's record by compare-and-set; (the record as it stands then, whether it was changed).

        Args:
            id_: of the agent.
            how: the new record, or None to leave it; asked again after a conflict. None of it when there is no record.
        """
        kept = self.agents.get(id_) or await self._read(id_)
        for _ in range(CONFLICTS):
            if kept is None:
                return None, False
            new = how(kept.record)
            if new is None or new == kept.record:
                return kept.record, False
            try:
                revision = await self._kv.update(
                    f"agent.{id_}", messages.encode(new), kept.revision, ttl=KEEP if new.state == ENDED else None
                )
            except WrongRevision:
                kept = await self._read(id_)
                continue
            self._know(new, revision)
            return new, True
        raise WrongRevision(f"The record of {id_} was changed by others {CONFLICTS} times")

    async def _read(self, id_: str) -> Kept[AgentRecord] | None:
        found = await self._kv.get(f"agent.{id_}")
        if found is None:
            return None
        record = messages.decode(found[0], AgentRecord)
        self._know(record, found[1])
        return Kept(record, found[1])

    # what is known here -----------------------------------------------------------------------------------------------

    def _know(self, record: AgentRecord, revision: int) -> None:
        id_ = record.id
        kept = self.agents.get(id_)
        if revision <= max(kept.revision if kept else 0, self._ended.get(id_, 0)):
            return
        self._drop(id_)
        if record.state == ENDED:
            self._end(id_, revision)
        else:
            self.agents[id_] = Kept(record, revision)
            self.owned.setdefault(record.owner.pid, set()).add(id_)
        self.tell(id_)

    def _end(self, id_: str, revision: int) -> None:
        """Older states may still be on their way here: a watch and a write's answer overtake each other."""
        self._ended[id_] = revision
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]

    def _drop(self, id_: str) -> None:
        kept = self.agents.pop(id_, None)
        if kept and (owned := self.owned.get(kept.record.owner.pid)):
            owned.discard(id_)
            if not owned:
                del self.owned[kept.record.owner.pid]

    def _entry(self, entry: Entry) -> None:
        id_ = entry.key.partition(".")[2]
        if entry.operation != "put":
            if entry.revision:
                self._end(id_, entry.revision)
            if id_ in self.agents and (entry.revision == 0 or entry.revision > self.agents[id_].revision):
                self._drop(id_)
                self.tell(id_)
            return
        try:
            record = messages.decode(entry.value, AgentRecord)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._log.error("a record that does not decode", key=entry.key, reason=str(error))
            return
        self._know(record, entry.revision)
