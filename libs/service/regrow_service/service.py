"""A service from start to end: bus, streams, health, its tasks, and a stop that loses nothing.

A service holds no state: `kill -9` is always allowed. The graceful way is SIGTERM or SIGINT: `stopping` is set,
consumers fetch no more, every task finishes what it has in hand, within `stop_deadline` seconds; what is late is
cancelled (its messages are given back); what waits to be published is published; then the program exits with 0. A task
that fails ends the service with 1: whoever runs it starts it again.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Generic, TypeVar

from regrow_protocol import streams
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError, Unreachable

from . import logs, metrics
from .health import Check, HealthServer
from .logs import Logger, get_logger
from .metrics import Metric, Metrics
from .settings import ServiceSettings

R = TypeVar("R")
S = TypeVar("S", bound=ServiceSettings)

Tasks = Mapping[str, Coroutine[Any, Any, None]]
"""What a service does, by name; each returns soon after `stopping` was set."""

CONNECT_TIMEOUT = 2.0
CONNECT_AGAIN = 0.5
START_AGAIN = 1.0
"""Seconds before what a service needs at its start is asked for again."""


class Service(Generic[S]):
    """One running service.

    Args:
        name: as in `regrow.command.<name>.…`.
        settings: from the environment.
        tables: its metrics.

    Attributes:
        stopping: set it to end the service.
        checks: by name, what must hold for `/readyz`, which says no before the tasks are made; a service may add
            its own when it makes them.
        bus: connected, once the tasks are made.
        health_port: where the health server listens.
    """

    def __init__(self, name: str, settings: S, *tables: tuple[Metric[Any], ...]) -> None:
        self.name = name
        self.settings = settings
        self.metrics = Metrics(*tables)
        self.stopping = asyncio.Event()
        self.checks: dict[str, Check] = {"nats": self._nats_check, "start": self._start_check}
        self.log: Logger = get_logger(name)
        self.health_port = 0
        self._bus: Bus | None = None
        self._started = False

    @property
    def bus(self) -> Bus:
        assert self._bus is not None, "not connected yet"
        return self._bus

    async def run(self, tasks: Callable[[], Tasks]) -> None:
        """Run until `stopping` is set.

        Args:
            tasks: called once when bus and streams are there.

        Raises:
            AccessDenied: NATS refuses the credentials. (While it does not answer, the service waits for it.)
            ExceptionGroup: of what made tasks fail.
        """
        settings = self.settings
        async with HealthServer(
            self.metrics, self.checks, host=settings.health_host, port=settings.health_port
        ) as health:
            self.health_port = health.port
            self.log.info("starting", health=f"http://{settings.health_host}:{health.port}")
            self._bus = await self._connect()
            if self._bus is None:
                return
            try:
                await streams.ensure(self._bus)
                await self._run(tasks())
                await self._bus.drain_publishers(timeout=max(settings.stop_deadline, 1.0))
            finally:
                await self._bus.close()
        self.log.info("stopped")

    async def _connect(self) -> Bus | None:
        connected = self.metrics[metrics.CONNECTED]
        while not self.stopping.is_set():
            try:
                bus = await Bus.connect(
                    self.settings.nats_url,
                    name=f"regrow-{self.name}",
                    on_down=lambda: connected.set(0),
                    on_up=lambda: connected.set(1),
                    connect_timeout=CONNECT_TIMEOUT,
                )
            except Unreachable as error:
                self.log.warning("waiting for NATS", error=str(error))
                await _wait(self.stopping, CONNECT_AGAIN)
            else:
                connected.set(1)
                return bus
        return None

    async def _run(self, tasks: Tasks) -> None:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(task, name=name) for name, task in tasks.items()]
            self._started = True
            self.log.info("started", tasks=sorted(tasks))
            await self.stopping.wait()
            deadline = self.settings.stop_deadline
            self.log.info("stopping", deadline=deadline)
            _, late = await asyncio.wait(running, timeout=deadline)
            for task in late:
                self.log.warning("not finished in time: cancelled", task=task.get_name())
                task.cancel()

    def _nats_check(self) -> str:
        return "" if self._bus is not None and self._bus.connected else "not connected"

    def _start_check(self) -> str:
        return "" if self._started else "streams are not there yet"


async def until(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, which may be interrupted at any moment, until it ends or `stopping` is set."""
    working = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
    if not working.cancelled():
        working.result()


async def insist(stopping: asyncio.Event, ask: Callable[[], Awaitable[R]], log: Logger) -> R | None:
    """What `ask` returns, asked again while NATS does not answer; None when the service stops meanwhile."""
    while not stopping.is_set():
        try:
            return await ask()
        except RegrowError as error:
            log.warning("not started yet", reason=str(error))
            await until(stopping, asyncio.sleep(START_AGAIN))
    return None


async def _wait(event: asyncio.Event, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        return


def main(
    name: str, read_settings: Callable[[], S], serve: Callable[[S, asyncio.Event], Coroutine[Any, Any, None]]
) -> int:
    """The body of a service's `main`: settings, logs, signals, loop; the exit code.

    Args:
        name: of the service.
        read_settings: raises `RegrowError` for what it cannot use.
        serve: runs the service until the event that it is given is set.
    """
    try:
        settings = read_settings()
    except RegrowError as error:
        logs.configure(name)
        get_logger(name).error("cannot start", error=str(error), code=error.code)
        return 2
    logs.configure(name, form=settings.log_format, level=settings.log_level)

    async def run() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await serve(settings, stopping)

    try:
        _run_fast(run())
    except RegrowError as error:
        get_logger(name).error("cannot go on", error=str(error), code=error.code)
        return 1
    except Exception:  # noqa: BLE001 - the last one to see it: logged, and told by the exit code
        get_logger(name).exception("failed")
        return 1
    return 0


def _run_fast(main_: Coroutine[Any, Any, None]) -> None:
    if sys.platform == "win32":
        asyncio.run(main_)
    else:
        import uvloop

        uvloop.run(main_)
