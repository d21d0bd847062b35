"""What a supervisor sees of hosts, played by a test: keys with a TTL, as documented; and what it decides, watched."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import Any, NamedTuple

from regrow_protocol import messages, streams
from regrow_protocol.bus import Bus, Entry
from regrow_protocol.errors import RegrowError
from regrow_protocol.ids import HOST, new_id
from regrow_protocol.messages import HostRecord, Ownership, ProcessRecord
from regrow_protocol.subjects import token
from regrow_supervisor import main
from regrow_supervisor.settings import SupervisorSettings


class FakeHost:
    """A host that does nothing but live.

    Attributes:
        renewed: when the last renewal was sent that was acknowledged: its key stands for one TTL from then on at least.
    """

    def __init__(self, bus: Bus, record: HostRecord, ttl: float) -> None:
        self.record = record
        self.ttl = ttl
        self.id = record.host
        self.renewed = 0.0
        self._kv = bus.kv("regrow_hosts")
        self._key = f"{token(record.app)}.{record.host}"
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> FakeHost:
        await self._put()
        self._renewing = asyncio.create_task(self._renew(self.ttl / 5))
        return self

    async def drain(self) -> None:
        """Say that it shall get no more, and give back what it has."""
        self.record = messages.msgspec.structs.replace(self.record, draining=True)
        await self._put()

    async def leave(self, how: str = "purge") -> float:
        """End gracefully: take the key away, with `purge` so that no trace of it stays; when that was."""
        await self.vanish()
        at = time.monotonic()
        if how == "purge":
            await self._kv.purge(self._key, marker_ttl=60.0)
        else:
            await self._kv.delete(self._key)
        return at

    async def vanish(self) -> None:
        """End as `kill -9` does: nothing is renewed any more."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
            self._renewing = None

    def resume(self) -> None:
        """Renew again, at once, after `vanish`: it was alive, and slow to reconnect."""
        self._renewing = asyncio.create_task(self._renew(0.0))

    async def _put(self) -> None:
        sent = time.monotonic()
        await self._kv.put(self._key, messages.encode(self.record), ttl=self.ttl)
        self.renewed = sent

    async def _renew(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            pause = self.ttl / 5
            with suppress(RegrowError):  # an outage; the next one will do
                await self._put()


class Decision(NamedTuple):
    """A change of owner, as it was seen."""

    at: float
    key: str
    host: str
    epoch: int


class Fleet:
    """Hosts, supervisors and what the latter decide, on one server.

    Attributes:
        ttl: of hosts' keys, seconds; the least that NATS takes, for short tests.
    """

    def __init__(self, bus: Bus, url: str, stack: AsyncExitStack) -> None:
        self.bus, self.url, self.stack = bus, url, stack
        self.app = new_id("app")
        self.ttl = 1.0
        self.decisions: list[Decision] = []
        self.owners: dict[str, Ownership] = {}
        self.processes: dict[str, ProcessRecord] = {}
        self.names: dict[str, str] = {}
        self._hosts: list[FakeHost] = []

    async def open(self) -> None:
        await streams.ensure(self.bus)
        watchers = [
            self.bus.kv("regrow_partitions").watch("own.>", self._owned),
            self.bus.kv("regrow_processes").watch(">", self._processed),
        ]
        for watcher in watchers:
            self.stack.push_async_callback(watcher.stop)
            await watcher.current

    def _owned(self, entry: Entry) -> None:
        if entry.operation == "put" and entry.value[:1] == b"{":
            owner = messages.decode(entry.value, Ownership)
            self.owners[entry.key] = owner
            self.decisions.append(Decision(time.monotonic(), entry.key, owner.host, owner.epoch))

    def _processed(self, entry: Entry) -> None:
        if entry.key.startswith("name."):
            self.names.pop(entry.key, None)
            if entry.operation == "put":
                self.names[entry.key] = entry.value.decode()
        elif entry.operation != "put":
            self.processes.pop(entry.key, None)
        elif entry.value[:1] == b"{":
            self.processes[entry.key] = messages.decode(entry.value, ProcessRecord)

    # supervisors ------------------------------------------------------------------------------------------------------

    async def supervise(self, *, grace: float = 5.0) -> asyncio.Event:
        """Run a supervisor in this process, with a connection of its own; set what is returned to stop it."""
        stopping = asyncio.Event()
        settings = SupervisorSettings(nats_url=self.url, host_ttl=self.ttl, upgrade_grace=grace, stop_deadline=5.0)
        task = asyncio.create_task(main.serve(settings, stopping))

        async def stop() -> None:
            stopping.set()
            await asyncio.wait_for(task, 20)

        self.stack.push_async_callback(stop)
        return stopping

    async def supervisor_program(self) -> asyncio.subprocess.Process:
        """Run a supervisor as a program of its own."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "regrow_supervisor",
            env={
                **os.environ,
                "REGROW_NATS_URL": self.url,
                "REGROW_HOST_TTL": str(self.ttl),
                "REGROW_LOG_LEVEL": "error",
            },
        )

        async def end() -> None:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()

        self.stack.push_async_callback(end)
        return process

    # hosts ------------------------------------------------------------------------------------------------------------

    async def host(
        self, build: str = "b1", *, app: str = "", types: str = "main", target: str = "", **more: Any
    ) -> FakeHost:
        record = HostRecord(
            host=new_id(HOST),
            app=app or self.app,
            build=build,
            types=types.split(),
            target=target,
            started=time.time(),
            **more,
        )
        host = await FakeHost(self.bus, record, self.ttl).start()
        self._hosts.append(host)
        self.stack.push_async_callback(host.vanish)
        return host

    # what was decided -------------------------------------------------------------------------------------------------

    def own(self, build: str = "b1", app: str = "") -> dict[int, str]:
        """Partition -> host."""
        prefix = f"own.{token(app or self.app)}.{build}."
        return {int(key[len(prefix) :]): o.host for key, o in self.owners.items() if key.startswith(prefix)}

    def shares(self, build: str = "b1", app: str = "") -> dict[str, int]:
        """Host -> number of partitions."""
        return dict(Counter(self.own(build, app).values()))

    def owned_by(self, *hosts: FakeHost, build: str = "b1", partitions: int = 16, app: str = "") -> bool:
        """All partitions are owned by these hosts, evenly, and by nobody else."""
        shares = self.shares(build, app)
        return (
            set(shares) == {host.id for host in hosts[:partitions]}
            and sum(shares.values()) == partitions
            and max(shares.values()) - min(shares.values()) <= 1
        )

    def epochs_are_gapless(self) -> bool:
        """Every change of owner raised the epoch by one: nobody overwrote what he had not seen."""
        seen: dict[str, int] = {}
        for decision in self.decisions:
            if decision.epoch != seen.get(decision.key, 0) + 1:
                return False
            seen[decision.key] = decision.epoch
        return True


def chance(seed: int) -> random.Random:
    """Randomness that a failing test can repeat."""
    return random.Random(seed)
