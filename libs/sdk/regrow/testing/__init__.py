"""Run processes in tests: a real NATS server, a host in this interpreter, and time that passes at once.

```python
async def test_survey():
    async with regrow.testing.runtime() as rt:
        assert await rt.run(survey, "folder") == ...
```

The server is started once per interpreter, on a store in a temporary folder, unless `REGROW_TEST_NATS_URL` names one.
Timers fire as soon as nothing else is left to do, in their order, so a month's sleep takes no time; what steps and
services do takes the time it takes. `skip_time=False` waits for real. With `REGROW_TEST_REPLAY=1`, or
`force_replay=True`, every process is folded anew from its inbox before each of its inputs, and the outputs are
compared: what would not survive a crash fails there. No supervisor runs: roots are started again by their policies all
the same, and permits are there at once, whatever the limits are.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import ApiError, Bus
from regrow_protocol.server import NatsServer

from ..client import Client, RemoteProcess
from ..clock import Clock
from ..definition import REGISTRY, ProcessType
from ..host.host import Host, HostOptions
from ..host.options import forced_replay
from ..program import LoadedProgram
from ._supervising import Supervising

P = ParamSpec("P")
R = TypeVar("R")

_server: NatsServer | None = None


def nats_url() -> str:
    """The server that tests share; started at the first use."""
    global _server
    if url := os.environ.get("REGROW_TEST_NATS_URL"):
        return url
    if _server is None:
        folder = tempfile.mkdtemp(prefix="regrow-test-")
        _server = server = NatsServer.start(folder, durability="fast")

        def end() -> None:
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)

        atexit.register(end)
    return _server.url


class _Types(Mapping[str, ProcessType[Any, Any]]):
    """All process types of this interpreter; where two modules share a name, that of the module under test."""

    def __init__(self) -> None:
        self.module = ""

    def __getitem__(self, name: str) -> ProcessType[Any, Any]:
        defined = REGISTRY[name]
        return ([t for t in defined if t.function.__module__ == self.module] or defined)[-1]

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTRY)

    def __len__(self) -> int:
        return len(REGISTRY)


class Runtime:
    """What `runtime()` gives.

    Attributes:
        app: a name of its own for each runtime.
        clock: its time.
        host: the host that runs now.
        client: for whatever `RemoteProcess` does not offer.
    """

    def __init__(self, url: str, options: HostOptions, *, skip_time: bool) -> None:
        self.url = url
        self.app = ids.new_id("app")
        self.clock = Clock(skipping=skip_time)
        self.options = options
        self.build = "test"
        self._types = _Types()
        self.bus: Bus
        self.client: Client
        self.host: Host
        self._skipper: asyncio.Task[None] | None = None
        self._supervising: Supervising
        self._held = 0
        self._read: dict[Host, int] = {}

    async def open(self) -> None:
        """Connect and start the first host."""
        self.bus = await Bus.connect(self.url, name="regrow-test")
        self.client = Client(self.bus, clock=self.clock)
        self._supervising = Supervising(self.app, self.client, self.clock)
        self._supervising.open(self.bus)
        await self.start_host()
        if self.clock.skipping:
            self._skipper = asyncio.get_running_loop().create_task(self._skip())

    async def close(self) -> None:
        """Stop everything; the app's stream is deleted."""
        if self._skipper is not None:
            self._skipper.cancel()
            await asyncio.wait([self._skipper])
        self._supervising.close()
        try:
            await self.host.stop()
            await self.host.bus.close()
            await self.client.close()
            await self._delete_stream()
        finally:
            await self.bus.close()

    async def _delete_stream(self) -> None:
        try:
            await self.bus.request(f"$JS.API.STREAM.DELETE.{streams.inbox_stream(self.app)}")
        except ApiError as error:
            if error.status != 404:  # the request was made again, and the first one was heard
                raise

    # Hosts ------------------------------------------------------------------------------------------------------------

    async def start_host(self) -> None:
        """Start a host and give it every partition."""
        program = LoadedProgram("", self.app, self.build, self._types, "")  # type: ignore[arg-type]
        bus = await Bus.connect(self.url, name="regrow-test-host")
        self.host = Host(bus, program, url=self.url, options=self.options, clock=self.clock)
        await self.host.start()
        await self.assign(self.host)

    async def assign(self, host: Host) -> None:
        """What the supervisor does: make `host` the owner of every partition."""
        bucket = self.bus.kv("regrow_partitions")

        async def give(part: int) -> None:
            key = f"own.{subjects.token(self.app)}.{self.build}.{part}"
            found = await bucket.get(key)
            epoch = m.decode(found[0], m.Ownership).epoch if found else 0
            await bucket.put(key, m.encode(m.Ownership(host.id, epoch + 1)))

        await asyncio.gather(*(give(part) for part in range(host.env.partitions)))
        await host.owns_all()

    async def kill_host(self) -> None:
        """End the host as a crash would, and start another one."""
        await self.crash_host()
        await self.start_host()

    async def crash_host(self) -> None:
        """End the host as a crash would: nothing is flushed, no cursor written, nothing released."""
        self._held += 1
        try:
            host = self.host
            await host.abandon()
            await host.bus.close()
        finally:
            self._held -= 1

    # Processes --------------------------------------------------------------------------------------------------------

    async def start(self, process: ProcessType[P, Any], *args: P.args, **kwargs: P.kwargs) -> RemoteProcess:
        """Start a root process."""
        self._types.module = process.function.__module__
        raw = process.signature.encode(args, kwargs)
        return await self.client.start(self.app, self.build, process.name, raw, result_type=process.signature.result)

    async def run(self, process: ProcessType[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a root process; its result, or ExecutionFailed."""
        started = await self.start(process, *args, **kwargs)
        return await started.result()

    # Time -------------------------------------------------------------------------------------------------------------

    async def _skip(self) -> None:
        """Move the clock to the next timer whenever nothing else is left to do."""
        while True:
            await asyncio.sleep(0.002)
            host = self.host
            due = self._next_due(host)
            if due is None or not self._rests(host) or await self._services_work() or not await self._all_read(host):
                continue
            if self._rests(host) and self._next_due(host) == due:
                self.clock.skipped += max(0.0, due - self.clock.now())
                host.fire_due(due)
                self._supervising.passed(due)

    def _rests(self, host: Host) -> bool:
        return not self._held and host is self.host and host.at_rest and not self._supervising.asked

    def _next_due(self, host: Host) -> float | None:
        timer = host.next_due()
        return min([*self._supervising.due, *([] if timer is None else [timer])], default=None)

    async def _services_work(self) -> bool:
        """Whether a command of this app is not handled yet: what a service does takes real time."""
        waiting = await self.bus.subjects(streams.COMMANDS, f"regrow.command.*.{subjects.token(self.app)}.>")
        return bool(waiting)

    async def _all_read(self, host: Host) -> bool:
        """Whether each partition has read all that is for it: one may be behind the others."""
        last = await self.bus.last_seq(host.inbox_stream)
        known = self._read.get(host, 0)
        if last > known:
            inboxes = f"regrow.inbox.{subjects.token(self.app)}.>"
            for received in await self.bus.history(host.inbox_stream, inboxes, known + 1, last):
                partition = host.partitions.get(int(received.subject.split(".")[3]))
                if partition is None or partition.floor.read < received.seq:
                    return False
            self._read = {host: last}
        return True


@asynccontextmanager
async def runtime(
    *,
    skip_time: bool = True,
    force_replay: bool | None = None,
    url: str | None = None,
    options: HostOptions | None = None,
) -> AsyncGenerator[Runtime]:
    """A runtime with one host in this interpreter.

    Args:
        skip_time: timers fire as soon as nothing else is left to do.
        force_replay: fold every process anew before each input; None: what `REGROW_TEST_REPLAY` says.
        url: of a NATS server to use.
        options: of the hosts.
    """
    if force_replay is None:
        force_replay = forced_replay()
    chosen = replace(options or HostOptions(park_after=0.5), force_replay=force_replay)
    rt = Runtime(url or await asyncio.to_thread(nats_url), chosen, skip_time=skip_time)
    await rt.open()
    try:
        yield rt
    finally:
        await rt.close()
