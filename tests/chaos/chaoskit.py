"""A stack that may be broken: NATS server, supervisor and hosts as programs; and what its streams say afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from regrow.client import Client, RemoteProcess
from regrow.launcher import HostProcess
from regrow_protocol import messages as m
from regrow_protocol import streams
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError
from regrow_protocol.ids import new_id
from regrow_protocol.server import NatsServer
from regrow_protocol.subjects import pid_of, token

PROGRAMS = Path(__file__).with_name("programs.py")
LONG = os.environ.get("REGROW_CHAOS") == "long"
TTL = 1.0
PARTITIONS = 16


async def until(condition: Callable[[], Awaitable[Any]], what: str, timeout: float = 60.0, every: float = 0.02) -> Any:
    """Wait until `await condition()` is true, and return it; while the server is away it is not."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        try:
            if found := await condition():
                return found
        except RegrowError:
            pass
        assert loop.time() < deadline, f"{what} did not happen within {timeout} s"
        await asyncio.sleep(every)


@dataclass
class Log:
    """What the streams of an app hold.

    Attributes:
        results: (pid, incarnation, operation) -> the outcomes of it that are recorded, the first one first.
        events: (pid, number) -> its records.
        bodies: message id -> the different bodies that are stored under it.
        starts: pid -> how many first starts are stored.
    """

    results: dict[tuple[str, int, int], list[Any]] = field(default_factory=lambda: defaultdict(list))
    events: dict[tuple[str, int], list[m.EventRecord]] = field(default_factory=lambda: defaultdict(list))
    bodies: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    starts: Counter[str] = field(default_factory=Counter)

    def counted(self, pid: str) -> list[Any]:
        """The outcome of each step of a worker that counts: its first recorded one."""
        mine = sorted((n, found[0]) for (of, _, n), found in self.results.items() if of == pid)
        return [value for _, value in mine]

    def ambiguous(self) -> list[str]:
        """Ids that are stored with different contents; not those of step results, of which the first one counts."""
        return [msg_id for msg_id, found in self.bodies.items() if len(found) > 1 and not msg_id.endswith(".r")]

    def repeated_events(self) -> list[tuple[str, int]]:
        return [key for key, found in self.events.items() if len(found) > 1]

    def repeated_results(self) -> list[tuple[str, int, int]]:
        return [key for key, found in self.results.items() if len(found) > 1]

    def check(self, result: dict[str, list[str]], steps: int) -> None:
        """The result of `crowd` is made of the outcome of each step that was recorded first, each once."""
        for pid, values in result.items():
            assert len(values) >= steps
            assert [value.split(":")[0] for value in values] == [str(i) for i in range(len(values))], f"steps of {pid}"
            assert values == self.counted(pid), f"what {pid} returned is not what was recorded first"
        assert self.ambiguous() == []
        assert self.repeated_events() == []


class Crowd:
    """A crowd at work until the test has done what it is about, however slow the computer is.

    Attributes:
        result: of its root; what it may take is counted from `end` on.
    """

    def __init__(self, stack: Stack, root: RemoteProcess, enough: Path, steps: int) -> None:
        self._stack, self._enough, self._steps = stack, enough, steps
        self.result = asyncio.create_task(root.result())

    def check_goes_on(self) -> None:
        """It has not ended, in whatever way."""
        assert not self.result.done(), f"it has ended: {self.result}"

    async def end(self, timeout: float) -> Log:
        """Let it come to its end; its log, which says what its result says."""
        self.check_goes_on()
        self._enough.touch()
        async with asyncio.timeout(timeout):
            found = await self.result
        log = await self._stack.log()
        log.check(found, self._steps)
        return log


class Stack:
    """One app on one server.

    Attributes:
        env: for its programs.
        last_host: the one that was started last.
        build: of it.
    """

    def __init__(self, server: NatsServer, bus: Bus, stack: AsyncExitStack) -> None:
        self.server, self.bus = server, bus
        self.app = new_id("app")
        self.client = Client(bus)
        self.env = {"REGROW_HOST_TTL": str(TTL), "REGROW_LOG_LEVEL": "error"}
        self.build = ""
        self.last_host: HostProcess
        self._stack = stack

    @property
    def inbox(self) -> str:
        """Name of its inbox stream."""
        return streams.inbox_stream(self.app)

    # Programs --------------------------------------------------------------------------------------------------------

    async def supervise(self, *, program: str = "", **env: str) -> asyncio.subprocess.Process:
        """A supervisor; `program`: Python text that runs one."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(("-c", program) if program else ("-m", "regrow_supervisor")),
            env={**os.environ, **self.env, "REGROW_NATS_URL": self.server.url, **env},
        )
        self._stack.push_async_callback(self.end, process)
        return process

    async def end(self, process: asyncio.subprocess.Process) -> None:
        """`kill -9`."""
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def host(
        self, target: Path = PROGRAMS, *, announced: bool = True, restart: bool = False, **env: str
    ) -> HostProcess:
        """A host, registered; `announced`: when it dies its launcher says so."""
        made = HostProcess(
            str(target),
            self.server.url,
            app=self.app,
            bus=self.bus if announced else None,
            restart=restart,
            env={**self.env, **env},
        )
        ready = await made.start()
        self.build = ready.build
        self.last_host = made
        self._stack.push_async_callback(self.end_host, made)
        return made

    async def end_host(self, host: HostProcess) -> None:
        """At the end of a test, however it is."""
        if host.os_pid and host._process is not None and host._process.returncode is None:
            os.kill(host.os_pid, signal.SIGCONT)
            if not host._restart:
                host.kill()
        await host.stop(3.0)

    async def kill(self, host: HostProcess) -> None:
        """`kill -9`; returns when it is gone."""
        deaths = host.deaths
        host.kill()

        async def gone() -> bool:
            return host.deaths > deaths

        await until(gone, "the end of a killed host")

    async def outage(self, seconds: float) -> None:
        """Kill the server and start it again on the same store after `seconds`."""
        await asyncio.to_thread(self.server.kill)
        await asyncio.sleep(seconds)  # how long the outage lasts is what the test is about
        await asyncio.to_thread(self.server.restart)

    # Processes -------------------------------------------------------------------------------------------------------

    async def start(self, type_: str, **args: Any) -> RemoteProcess:
        """Start a root on the last host's build."""
        return await self.client.start(self.app, self.build, type_, json.dumps(args).encode())

    async def crowd(self, folder: Path, *, children: int, steps: int, seconds: float) -> Crowd:
        """Start a crowd that goes on until it is told in `folder` that it is enough."""
        enough = folder / "enough"
        root = await self.start("crowd", children=children, steps=steps, seconds=seconds, enough=str(enough))
        return Crowd(self, root, enough, steps)

    async def stored(self, more_than: int, what: str = "progress", timeout: float = 60.0) -> int:
        """Wait until the inbox stream holds more than so many messages; its last sequence."""

        async def reached() -> int:
            last = await self.bus.last_seq(self.inbox)
            return last if last > more_than else 0

        return await until(reached, what, timeout)

    # Ownership -------------------------------------------------------------------------------------------------------

    async def shrink_windows(self, seconds: float) -> None:
        """From now on the streams recognise ids for so long only; a host that starts sets it back."""
        await streams.ensure_app(self.bus, self.app, duplicate_window=seconds)
        events = streams.StreamSpec(streams.EVENTS, ("regrow.event.>",), duplicate_window=seconds)
        await streams.ensure_specs(self.bus, [events])
        for name in (self.inbox, streams.EVENTS):
            present = msgspec.json.decode(await self.bus.request(f"$JS.API.STREAM.INFO.{name}"))["config"]
            assert present["duplicate_window"] == seconds * 1e9

    async def give(self, host: HostProcess) -> None:
        """Without a supervisor: make this host the owner of every partition."""
        assert host.ready is not None
        bucket = self.bus.kv("regrow_partitions")
        owners = await self.owners()
        for part in range(PARTITIONS):
            epoch = owners[part].epoch + 1 if part in owners else 1
            owner = m.Ownership(host.ready.host, epoch)
            await bucket.put(f"own.{token(self.app)}.{self.build}.{part}", m.encode(owner))

    # What is stored --------------------------------------------------------------------------------------------------

    async def log(self) -> Log:
        """All that the streams hold of this app."""
        log = Log()
        for received in await self.bus.history(self.inbox, f"regrow.inbox.{token(self.app)}.>"):
            if msg_id := (received.headers or {}).get("Nats-Msg-Id"):
                log.bodies[msg_id].add(received.data)
            pid = pid_of(received.subject)
            try:
                message = m.decode_input(received.data)
            except msgspec.MsgspecError:
                continue  # a test put it there
            if isinstance(message, m.Result):
                log.results[pid, message.incarnation, message.op.n].append(_plain(message.value))
            elif isinstance(message, m.Start) and not message.incarnation:
                log.starts[pid] += 1
        for received in await self.bus.history(streams.EVENTS, f"regrow.event.{token(self.app)}.>"):
            if msg_id := (received.headers or {}).get("Nats-Msg-Id"):
                log.bodies[msg_id].add(received.data)
            record: m.EventRecord = m.decode(received.data, m.EventRecord)
            log.events[record.pid, record.seq].append(record)
        return log

    async def owners(self) -> dict[int, m.Ownership]:
        """Partition -> owner, of the last host's build."""
        pattern = f"own.{token(self.app)}.{self.build}.*"
        entries = self.bus.kv("regrow_partitions").items(pattern)
        return {int(e.key.rsplit(".", 1)[1]): m.decode(e.value, m.Ownership) async for e in entries}

    async def owned_by(self, *hosts: HostProcess) -> dict[int, m.Ownership]:
        """Wait until these hosts, and no other, own all partitions."""
        wanted = {host.ready.host for host in hosts if host.ready is not None}

        async def owned() -> dict[int, m.Ownership]:
            found = await self.owners()
            return found if found and {o.host for o in found.values()} == wanted else {}

        return await until(owned, "the hosts' ownership")

    async def stuck(self) -> dict[str, m.Stuck]:
        """Parked processes."""
        found: dict[str, m.Stuck] = {}
        async for entry in self.bus.kv("regrow_cursors").items(f"{token(self.app)}.>"):
            cursor: m.Cursor = m.decode(entry.value, m.Cursor)
            found.update(cursor.stuck)
        return found


def _plain(value: Any) -> Any:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else None
