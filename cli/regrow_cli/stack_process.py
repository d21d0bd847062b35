"""The stack process: one per data folder, in a session of its own; runs the NATS server and the services.

It holds the folder's lock for its life, restarts what dies, and writes `stack.json` once the server answers. It ends on
SIGTERM or SIGINT, services first and the server last, within five seconds; and by itself when nobody has asked for it
and nobody but its own services has been connected for `REGROW_STACK_IDLE` seconds (30; 0: never), unless it is kept.

Whoever starts it may pass a file descriptor to learn what became of the start: one line of JSON, `Report`.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from regrow_protocol.errors import RegrowError, Unreachable
from regrow_service.logs import Logger, configure, get_logger
from regrow_service.settings import InvalidSetting

from .children import Child, ChildSpec, Keeper
from .connections import connections
from .data_dir import STACK_USER, ChildRecord, DataDir, StackInfo, try_lock, write
from .errors import StackFailed
from .gateway_port import gateway_hosts, gateway_port
from .nats_child import APP_USER, NatsChild, end_orphans
from .os_process import Identity, identify, send

IDLE_DEFAULT = 30.0
MAX_LOG = 10 * 1024 * 1024
_HOUSEKEEPING = 30.0
_LOCK_WAIT = 1.0


class Report(Struct, omit_defaults=True):
    """What became of a start.

    Attributes:
        ready: `stack.json` is there.
        busy: another stack process lives in this folder, ready or about to be.
        message, hint: otherwise, why it failed.
    """

    ready: bool = False
    busy: bool = False
    message: str = ""
    hint: str = ""


def default_services(place: DataDir) -> list[ChildSpec]:
    """What the stack of `place` runs beside the NATS server."""
    return [
        ChildSpec("supervisor", _module("regrow_supervisor")),
        ChildSpec(
            "machine-manager", _module("regrow_machine_manager"), {"REGROW_MACHINES_FOLDER": str(place.machines)}
        ),
        ChildSpec("registry", _module("regrow_registry")),
        *([ChildSpec("agent-gateway", _module("regrow_agent_gateway"))] if _has_gateway() else []),
    ]


def _has_gateway() -> bool:
    """Whether what the agent-gateway needs is installed (`regrow[gateway]`)."""
    return all(importlib.util.find_spec(name) is not None for name in ("mcp", "starlette", "uvicorn", "websockets"))


def _module(name: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", name)


def run(place: DataDir, services: Sequence[ChildSpec], report: Callable[[Report], None]) -> int:
    """Be the stack of `place` until told to stop; returns the exit code. Output goes to stderr (`logs/stack.log`)."""
    configure("stack", form="json")
    log = get_logger("regrow.stack", data=str(place.path))
    identity = identify(os.getpid())
    assert identity is not None
    # Not closed, so locked as long as the process lives, however it ends. Children do not inherit it.
    lock = os.open(place.lock, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _LOCK_WAIT  # those who look whether it is locked hold it for an instant
    while not try_lock(lock):
        if time.monotonic() > deadline:
            report(Report(busy=True))
            return 0
        time.sleep(0.01)
    os.truncate(lock, 0)
    os.write(lock, msgspec.json.encode(identity))
    place.info.unlink(missing_ok=True)  # of a stack that was killed
    try:
        asyncio.run(_Stack(place, services, log, identity, report).run())
    except RegrowError as error:
        log.error("stack failed", reason=error.message, hint=error.hint, code=error.code)  # noqa: TRY400 - expected
        failure = Report(message=error.message, hint=error.hint)
    except Exception as error:
        log.exception("stack failed")
        failure = Report(message=f"{type(error).__name__}: {error}", hint=f"see {place.logs / 'stack.log'}")
    else:
        return 0
    os.close(lock)  # whoever hears of the failure may try again at once
    report(failure)
    return 1


class _Stack:
    def __init__(
        self,
        place: DataDir,
        services: Sequence[ChildSpec],
        log: Logger,
        identity: Identity,
        report: Callable[[Report], None],
    ) -> None:
        self._place = place
        self._log = log
        self._identity = identity
        self._report = report
        self._idle = _idle_seconds()
        self._started = time.time()
        self._stop = asyncio.Event()
        self._gateway_port = 0
        self._nats = NatsChild(place, log, self._record)
        self._children = [Child(spec) for spec in services]
        self._keeper = Keeper(self._environment, place.logs, log, on_change=self._record)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ask_to_stop, number.name)
        serving = asyncio.create_task(self._serve())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._place.info.unlink(missing_ok=True)
            serving.cancel()
            stopping.cancel()
            await asyncio.wait([serving, stopping])
            self._place.children.unlink(missing_ok=True)
        if not serving.cancelled():
            serving.result()
            raise StackFailed("The stack ended by itself", hint=f"see {self._place.logs / 'stack.log'}")
        self._log.info("stack stopped", ran_for=round(time.time() - self._started, 1))

    def _ask_to_stop(self, why: str) -> None:
        self._log.info("stack stops", why=why)
        self._stop.set()

    async def _serve(self) -> None:
        for process in await asyncio.to_thread(end_orphans, self._place):
            self._log.warning("ended what a killed stack had left behind", os_pid=process.pid)
        self._gateway_port = gateway_port(self._place, self._log)
        try:
            await self._nats.start()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._nats.keep(self._moved))
                for child in self._children:
                    group.create_task(self._keeper.keep(child))
                group.create_task(self._keep_house())
                if self._idle > 0:
                    group.create_task(self._watch_idle())
                self._publish()
                self._report(Report(ready=True))
        finally:
            await self._nats.stop()

    def _environment(self) -> dict[str, str]:
        return {"REGROW_GATEWAY_HOST": gateway_hosts(), **os.environ} | {
            "REGROW_NATS_URL": self._nats.endpoint.url(STACK_USER),
            "REGROW_GATEWAY_PORT": str(self._gateway_port),
            "REGROW_STOP_DEADLINE": "2",
            "REGROW_LOG_FORMAT": "json",
        }

    def _publish(self) -> None:
        endpoint = self._nats.endpoint
        info = StackInfo(
            url=endpoint.url(APP_USER),
            pid=os.getpid(),
            data=str(self._place.path),
            monitor=endpoint.monitor,
            started=self._started,
            version=importlib.metadata.version("regrow"),
            process=self._identity,
        )
        write(self._place.info, info)
        self._log.info("stack is ready", port=endpoint.port, idle=self._idle)

    def _moved(self) -> None:
        """The server has another address: tell it to new programs, and start the services again with it."""
        self._publish()
        for child in self._children:
            if child.process:
                send(child.process, signal.SIGTERM)

    def _record(self) -> None:
        records = [
            ChildRecord(child.spec.name, child.process, child.restarts, child.since, child.last_exit)
            for child in self._children
            if child.process
        ]
        if nats := self._nats.record:
            records.insert(0, nats)
        try:
            write(self._place.children, records)
        except OSError as error:  # a full disk: the stack goes on, only what a kill -9 leaves is harder to find
            self._log.warning("children.json cannot be written", reason=str(error))

    async def _watch_idle(self) -> None:
        """Stop when nobody has been here for long enough."""
        every = min(1.0, self._idle / 4)
        wanted, last_use = self._wanted(), time.monotonic()
        while True:
            await asyncio.sleep(every)
            if self._wanted() != wanted or self._kept() or await self._in_use():
                wanted, last_use = self._wanted(), time.monotonic()
            if time.monotonic() - last_use >= self._idle and await self._leave(wanted):
                return

    async def _leave(self, wanted: int) -> bool:
        """Withdraw `stack.json`, unless somebody came at this very moment."""
        try:
            with self._place.gated(deadline=0.0):
                if self._wanted() != wanted or await self._in_use():
                    return False
                self._place.info.unlink(missing_ok=True)
        except RegrowError:  # somebody is at the gate: not idle
            return False
        self._ask_to_stop(f"nobody connected for {self._idle:g} s")
        return True

    def _wanted(self) -> int:
        try:
            return self._place.wanted.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _kept(self) -> bool:
        try:
            return self._place.wanted.read_text().strip() == "keep"
        except FileNotFoundError:
            return False

    async def _in_use(self) -> bool:
        try:
            present = await asyncio.to_thread(connections, self._nats.endpoint.monitor)
        except Unreachable:  # the server is being restarted: those who were connected are on their way back
            return True
        return any(connection.authorized_user != STACK_USER for connection in present)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING)
            await asyncio.to_thread(rotate_logs, self._place.logs)


def rotate_logs(folder: Path, limit: int = MAX_LOG) -> None:
    """Move what is in logs of more than `limit` bytes to `<name>.1`; those who write to them go on, so it is copied.

    The NATS server rotates its own."""
    for path in folder.glob("*.log"):
        if path.name != "nats.log" and path.stat().st_size > limit:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            os.truncate(path, 0)


def _idle_seconds() -> float:
    text = os.environ.get("REGROW_STACK_IDLE", "")
    try:
        seconds = float(text or IDLE_DEFAULT)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InvalidSetting(f"REGROW_STACK_IDLE={text!r} is no number of seconds", hint="0 means never")
    return seconds
