"""What was attached to agents: grants, and the endpoints of those who gave them, followed in `regrow_endpoints`."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
from msgspec.structs import replace
from regrow_protocol import messages
from regrow_protocol.agents import AgentRecord, Tool
from regrow_protocol.bus import Bus, Entry
from regrow_protocol.endpoints import BUCKET, EndpointsRecord, Grant
from regrow_service.logs import get_logger

TICK = 0.5
"""Seconds between two looks for grants that have expired."""
GRACE = 3.0
"""Seconds in which a process that was started again has exposed what it had exposed before."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Attached(NamedTuple):
    """An endpoint of another process as a tool.

    Attributes:
        tool: under the name that the agent knows.
        endpoint: its own name.
    """

    tool: Tool
    endpoint: str
    grant: Grant


class Grants:
    """Of one gateway; `run` follows them.

    Args:
        changed: called with the id of an agent whose tools may be others now.
    """

    def __init__(self, bus: Bus, changed: Callable[[str], None]) -> None:
        self.current = asyncio.Event()
        self._kv = bus.kv(BUCKET)
        self._changed = changed
        self._grants: dict[str, dict[str, Grant]] = {}
        self._processes: dict[str, EndpointsRecord] = {}
        self._agents: dict[str, set[str]] = {}
        self._withdrawn: dict[str, dict[str, float]] = {}
        self._log = get_logger("grants")

    async def run(self) -> None:
        """Follow the bucket, for ever; may be cancelled at any moment."""
        watchers = [
            self._kv.watch("process.*", self._process_entry),
            self._kv.watch("grant.*.*", self._grant_entry),
        ]
        try:
            for watcher in watchers:
                await watcher.current
            self.current.set()
            while True:
                await asyncio.sleep(TICK)
                self._expire()
        finally:
            for watcher in watchers:
                await watcher.stop()

    def of(self, agent: AgentRecord) -> Iterator[Attached]:
        """What an agent may call now, besides its own tools; the oldest grant first."""
        for grant, process in self._open(agent):
            for name, tool in sorted(process.endpoints.items()):
                known_as = grant.prefix + name
                if (grant.only is None or name in grant.only) and _NAME.fullmatch(known_as):
                    yield Attached(replace(tool, name=known_as), name, grant)

    def coming(self, agent: AgentRecord, tool: str) -> bool:
        """Whether an agent might call a tool a moment ago, and may again soon: its process was started again."""
        since = time.monotonic() - GRACE
        return any(
            grant.prefix + name == tool and at > since and (grant.only is None or name in grant.only)
            for grant, _ in self._open(agent)
            for name, at in self._withdrawn.get(grant.pid, {}).items()
        )

    def _open(self, agent: AgentRecord) -> Iterator[tuple[Grant, EndpointsRecord]]:
        """The grants of an agent that hold now, and whose they are; the oldest first."""
        now = time.time()
        grants = sorted(self._grants.get(agent.id, {}).values(), key=lambda grant: (grant.created, grant.id))
        for grant in grants:
            process = self._processes.get(grant.pid)
            if grant.app == agent.app and not _over(grant, now) and process is not None and process.app == agent.app:
                yield grant, process

    # following --------------------------------------------------------------------------------------------------------

    def _grant_entry(self, entry: Entry) -> None:
        _, agent, id_ = entry.key.split(".")
        old = self._grants.get(agent, {}).pop(id_, None)
        if entry.operation == "put":
            try:
                grant = messages.decode(entry.value, Grant)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                self._log.error("a grant that does not decode", key=entry.key, reason=str(error))
            else:
                if not _over(grant, time.time()):
                    self._grants.setdefault(agent, {})[id_] = grant
                    self._agents.setdefault(grant.pid, set()).add(agent)
        if old is not None and not any(each.pid == old.pid for each in self._grants.get(agent, {}).values()):
            self._forget(old.pid, agent)
        if not self._grants.get(agent, True):
            del self._grants[agent]
        self._changed(agent)

    def _forget(self, pid: str, agent: str) -> None:
        agents = self._agents.get(pid, set())
        agents.discard(agent)
        if not agents:
            self._agents.pop(pid, None)

    def _process_entry(self, entry: Entry) -> None:
        pid = entry.key.partition(".")[2]
        old = self._processes.pop(pid, None)
        withdrawn = self._withdrawn.pop(pid, {})
        if entry.operation == "put":
            try:
                record = messages.decode(entry.value, EndpointsRecord)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                self._log.error("endpoints that do not decode", key=entry.key, reason=str(error))
            else:
                if not record.ended:
                    self._processes[pid] = record
                    self._withdraw(old, withdrawn, record)
        for agent in self._agents.get(pid, ()):
            self._changed(agent)

    def _withdraw(self, old: EndpointsRecord | None, withdrawn: dict[str, float], new: EndpointsRecord) -> None:
        """Note what a living process exposes no more."""
        now = time.monotonic()
        lately = {name: at for name, at in withdrawn.items() if at > now - GRACE}
        lately |= dict.fromkeys(old.endpoints if old is not None else (), now)
        if left := {name: at for name, at in lately.items() if name not in new.endpoints}:
            self._withdrawn[new.pid] = left

    def _expire(self) -> None:
        now = time.time()
        for agent, grants in list(self._grants.items()):
            over = [grant for grant in grants.values() if _over(grant, now)]
            for grant in over:
                del grants[grant.id]
                if not any(each.pid == grant.pid for each in grants.values()):
                    self._forget(grant.pid, agent)
            if not grants:
                del self._grants[agent]
            if over:
                self._changed(agent)


def _over(grant: Grant, now: float) -> bool:
    return 0 < grant.expires <= now
