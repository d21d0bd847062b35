"""What the benchmarks stand on: a private NATS server, the supervisor, hosts and a client, each a program of its own.

The client lives in the benchmark's own program; the hosts run `programs.py` as `regrow.launcher` starts them.
Everything is in a temporary folder and ends with the `async with`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil
from meter import UNDISTURBED, Meter, Patience, cpu_time
from regrow.client import Client, RemoteProcess
from regrow.codec import to_raw
from regrow.launcher import HostProcess
from regrow.program import LoadedProgram, load
from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.server import Durability, NatsServer

T = TypeVar("T")

PROGRAM = str(Path(__file__).with_name("programs.py"))
APP = "programs"
DEADLINE = 60.0
PARK_AFTER = 1.0
"""Seconds of rest after which the hosts of the benchmarks drop a process from memory."""


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, timeout: float = DEADLINE, *, every: float = 0.02
) -> None:
    """Wait for a condition, looked at `every` so many seconds."""
    try:
        async with asyncio.timeout(timeout):
            while not await condition():
                await asyncio.sleep(every)
    except TimeoutError:
        raise TimeoutError(f"After {timeout:g} s still not so: {what}") from None


class Stack:
    """Everything that runs for a benchmark; made by `running`.

    Attributes:
        durability: of the NATS server.
        bus, client: of the benchmark's own program.
        hosts: in the order of their start.
        patience: with other programs.
        build: that the hosts run (they load no more than `programs.py`, so it is not this program's).
    """

    def __init__(self, folder: Path, durability: Durability, server: NatsServer, bus: Bus, patience: Patience) -> None:
        self.folder = folder
        self.durability: Durability = durability
        self.server = server
        self.bus = bus
        self.patience = patience
        self.client = Client(bus)
        self.hosts: list[HostProcess] = []
        self.program: LoadedProgram = load(PROGRAM)
        self.build = ""
        self._supervisor: asyncio.subprocess.Process | None = None

    @property
    def stream(self) -> str:
        """Of the inboxes."""
        return streams.inbox_stream(APP)

    async def open(self) -> None:
        """Make the streams, start the supervisor."""
        await streams.ensure(self.bus)
        await streams.ensure_app(self.bus, APP)
        with (self.folder / "supervisor.log").open("wb") as log:
            self._supervisor = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "regrow_supervisor",
                env={**os.environ, "REGROW_NATS_URL": self.server.url},
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    async def close(self) -> None:
        """End everything."""
        await asyncio.gather(*(host.stop() for host in self.hosts))
        await self._end_supervisor()
        await self.client.close()

    async def halt(self) -> None:
        """End the supervisor and the server, so that its store can be copied."""
        await self._end_supervisor()
        await asyncio.to_thread(self.server.stop)

    async def _end_supervisor(self) -> None:
        process, self._supervisor = self._supervisor, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    # Hosts ------------------------------------------------------------------------------------------------------------

    async def add_host(self, *, announced: bool = True, restart: bool = False) -> HostProcess:
        """Start a host and wait until the partitions are shared out; arguments as of `start_host`."""
        host = await self.start_host(announced=announced, restart=restart)
        await self.settled([h for h in self.hosts if psutil.pid_exists(h.os_pid)])
        return host

    async def start_host(self, *, announced: bool = True, restart: bool = False) -> HostProcess:
        """Start a host; returns when it is registered.

        Args:
            announced: its launcher says so when it dies; else only its key's TTL does.
            restart: its launcher starts another one.
        """
        bus = self.bus if announced else None
        environment = {"REGROW_PARK_AFTER": str(PARK_AFTER)}
        host = HostProcess(PROGRAM, self.server.url, app=APP, bus=bus, restart=restart, env=environment)
        self.build = (await host.start()).build
        self.hosts.append(host)
        return host

    async def settled(self, hosts: list[HostProcess]) -> None:
        """Wait until these hosts, and no others, own the partitions in equal shares and have taken them up."""
        names = {host.ready.host for host in hosts if host.ready is not None}

        async def so() -> bool:
            owners = await self._records("regrow_partitions", "own.", m.Ownership)
            each = Counter(owner.host for owner in owners.values())
            if len(owners) < 16 or not each.keys() <= names or max(each.values()) - min(each[n] for n in names) > 1:
                return False
            cursors = await self._records("regrow_cursors", "", m.Cursor)
            return all(part in cursors and cursors[part].epoch == owner.epoch for part, owner in owners.items())

        await until(so, "the partitions belong to the hosts in equal shares", every=0.005)

    async def owners(self) -> dict[int, str]:
        """The host of each partition."""
        owners = await self._records("regrow_partitions", "own.", m.Ownership)
        return {part: owner.host for part, owner in owners.items()}

    async def _records(self, bucket: str, prefix: str, type_: type[T]) -> dict[int, T]:
        """By partition, of the hosts' build."""
        pattern = f"{prefix}{subjects.token(APP)}.{self.build}.*"
        entries = self.bus.kv(bucket).items(pattern)
        return {int(entry.key.rsplit(".", 1)[1]): m.decode(entry.value, type_) async for entry in entries}

    async def listed(self, timeout: float = DEADLINE) -> None:
        """Wait until the supervisor has made its list of processes from all events."""

        async def so() -> bool:
            body = await self.bus.request(f"$JS.API.CONSUMER.INFO.{streams.EVENTS}.supervisor-projection")
            found = msgspec.json.decode(body, type=_Consumer)
            return not found.num_pending and not found.num_ack_pending

        await until(so, "the supervisor's list is made", timeout)

    async def at_rest(self) -> None:
        """Wait until the cursors say that all inputs are applied and their outputs acknowledged, and all is listed."""
        kv = self.bus.kv("regrow_cursors")

        async def so(part: int) -> bool:
            last = await self.bus.last(self.stream, subjects.inbox_partition(APP, part))
            found = await kv.get(f"{subjects.token(APP)}.{self.build}.{part}")
            if last is None or found is None:
                return last is None
            cursor: m.Cursor = m.decode(found[0], m.Cursor)
            return cursor.floor >= last.seq and not cursor.busy

        async def all_so() -> bool:
            return all(await asyncio.gather(*(so(part) for part in range(16))))

        await until(all_so, "all inputs are applied")
        await self.listed()

    # Processes --------------------------------------------------------------------------------------------------------

    async def start(self, type_: str, *, pid: str = "", **arguments: Any) -> RemoteProcess:
        """Start a root process."""
        return await self.client.start(APP, self.build, type_, to_raw(arguments), pid=pid)

    async def run(self, type_: str, **arguments: Any) -> Any:
        """Start one and wait for its result."""
        return await (await self.start(type_, **arguments)).result(DEADLINE)

    async def start_many(self, type_: str, count: int, parts: set[int] | None = None) -> list[RemoteProcess]:
        """Start `count` processes, all in the partitions `parts` if given."""
        pids: list[str] = []
        while len(pids) < count:
            pid = ids.new_id(ids.PROCESS)
            if parts is None or ids.partition_of(pid, 16) in parts:
                pids.append(pid)
        return await asyncio.gather(*(self.start(type_, pid=pid) for pid in pids))

    # Measuring --------------------------------------------------------------------------------------------------------

    def meter(self) -> Meter:
        """To be used with `async with` around a piece of work."""
        return Meter(self)

    async def rounds(self, count: int, work: Callable[[], Awaitable[T]]) -> list[tuple[Meter, T]]:
        """Do the same work `count` times: what each took and gave.

        While there is patience, a round that other programs disturbed is repeated; the least disturbed ones count.
        """
        tries: list[tuple[Meter, T]] = []
        while True:
            await self.patience.quiet()
            async with self.meter() as meter:
                result = await work()
            tries.append((meter, result))
            tries.sort(key=lambda one: one[0].others)
            if len(tries) >= count and (tries[count - 1][0].others < UNDISTURBED or not self.patience.left):
                return tries[:count]

    def cpu_times(self) -> dict[str, float]:
        """Seconds of CPU so far by program."""
        pids: dict[str, list[int]] = {"client": [os.getpid()], "host": [h.os_pid for h in self.hosts]}
        pids["nats"] = [self.server.pid] if self.server.pid else []
        pids["supervisor"] = [self._supervisor.pid] if self._supervisor else []
        return {role: sum(map(cpu_time, numbers)) for role, numbers in pids.items()}

    async def stream_sizes(self) -> dict[str, tuple[int, int]]:
        """Messages and bytes of each stream that carries processes' messages."""
        names = [self.stream, streams.EVENTS, streams.REPLIES]
        return {name: await stream_size(self.bus, name) for name in names}


@dataclass
class Watched:
    """A stack with other programs that work for a benchmark, for meters.

    Attributes:
        stack: whose programs are watched too.
        roots: by role, programs that are watched with all that they start.
        streams: that are measured besides the stack's own.
    """

    stack: Stack
    roots: dict[str, list[int]]
    streams: tuple[str, ...] = ()

    def cpu_times(self) -> dict[str, float]:
        """As the stack's own, and with programs and all that they started."""
        trees = {role: sum(map(_tree_time, pids)) for role, pids in self.roots.items()}
        return {**self.stack.cpu_times(), **trees}

    async def stream_sizes(self) -> dict[str, tuple[int, int]]:
        """Of the stack, and of `streams`."""
        more = {name: await stream_size(self.stack.bus, name) for name in self.streams}
        return {**await self.stack.stream_sizes(), **more}

    async def metered(self, work: Callable[[], Awaitable[T]]) -> tuple[Meter, T]:
        """What a piece of work costs, and gives."""
        async with Meter(self) as meter:
            result = await work()
        return meter, result


def _tree_time(pid: int) -> float:
    """Seconds of CPU of a program and of all below it, those too that have ended and were waited for."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])  # its own, and of the children it waited for
    return total


class _State(msgspec.Struct):
    messages: int
    bytes: int


class _Info(msgspec.Struct):
    state: _State


class _Consumer(msgspec.Struct):
    num_pending: int
    num_ack_pending: int


async def stream_size(bus: Bus, name: str) -> tuple[int, int]:
    """(messages, bytes) of a stream as the server counts them."""
    info = msgspec.json.decode(await bus.request(f"$JS.API.STREAM.INFO.{name}"), type=_Info)
    return info.state.messages, info.state.bytes


def copy_store(source: Path, target: Path) -> None:
    """Copy the store of a server that does not run; what it keeps of batches under way is not for others."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("batches", "ports-*"))


@contextlib.contextmanager
def temporary_folder() -> Any:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="regrow-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def running(
    durability: Durability, *, hosts: int = 1, store: Path | None = None, patience: Patience | None = None
) -> AsyncGenerator[Stack]:
    """A stack with `hosts` hosts, on a copy of `store` if given."""
    with temporary_folder() as folder:
        data = folder / "nats"
        if store is not None:
            copy_store(store, data)
        server = NatsServer.start(data, durability=durability)
        try:
            async with await Bus.connect(server.url, name="benchmark") as bus:
                stack = Stack(folder, durability, server, bus, patience or Patience(0))
                try:
                    await stack.open()
                    for _ in range(hosts):
                        await stack.add_host()
                    yield stack
                finally:
                    await stack.close()
        finally:
            server.stop()
