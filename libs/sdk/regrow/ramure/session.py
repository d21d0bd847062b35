"""A host inside the running program: bodies run in this interpreter, on its event loop.

It serves the builds of nobody else: its build is the code's hash with a mark of this run, so two runs of one program
never share their processes. When the program dies, what it ran belongs to no living build: `regrow resume`, or any
other host of the program, takes it over and starts its bodies again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from regrow_protocol import ids, subjects
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError

from ..client import Client, RemoteProcess
from ..definition import REGISTRY, Bound, ProcessType
from ..errors import ExecutionCancelled, ProgramError
from ..host.host import Host, HostOptions
from ..program import LoadedProgram, build_of
from ..runtime import CANCEL_GRACE, stack_url, target_of

log = logging.getLogger("regrow.ramure")

TTL = 10.0
"""Nobody takes over what a guest runs while its program lives: it may be stopped by a debugger for a while."""
WARN_TURN = 10.0
"""Bodies may block their own program, but they should be told."""
MARKER_TTL = 60.0
CLOSE_TIMEOUT = 5.0


class _Types(Mapping[str, ProcessType[Any, Any]]):
    """The process types of this interpreter at any moment; of several with one name ramure's, and the last of them."""

    def __getitem__(self, name: str) -> ProcessType[Any, Any]:
        defined = REGISTRY[name]
        return next((type_ for type_ in reversed(defined) if type_.options.resume == "restart"), defined[-1])

    def __iter__(self) -> Iterator[str]:
        return iter(REGISTRY)

    def __len__(self) -> int:
        return len(REGISTRY)


def program_for(type_: ProcessType[Any, Any]) -> LoadedProgram:
    """The program that `type_` belongs to, as this run has it; without a target where it is in no file."""
    module = sys.modules.get(type_.function.__module__)
    target = _target(type_)
    name = target.removeprefix("module:") if target.startswith("module:") else Path(target).stem or "python"
    build = build_of(module, list(_Types().values()))[:8] + os.urandom(4).hex()
    return LoadedProgram(target, name, build, _Types(), "")


def _target(type_: ProcessType[Any, Any]) -> str:
    try:
        return target_of(type_)
    except ProgramError:
        return ""


def _options() -> HostOptions:
    given = HostOptions.from_environment()
    ttl = given.ttl if os.environ.get("REGROW_HOST_TTL") else TTL
    return replace(given, ttl=ttl, warn_turn=WARN_TURN, turn_limit=math.inf, hard=False, guest=True)


class Session:
    """A client, and a host on the same event loop.

    Attributes:
        client: of the processes.
        host: that runs them.
        app: their app.
    """

    def __init__(self, host: Host, bus: Bus) -> None:
        self.host = host
        self.bus = bus
        self.client = Client(bus)
        self.app = host.app

    @classmethod
    async def open(cls, type_: ProcessType[Any, Any]) -> Session:
        """Connect, and start the host."""
        url = await stack_url()
        program = await asyncio.to_thread(program_for, type_)
        bus = await Bus.connect(url, name="regrow-client")
        try:
            hosting = await Bus.connect(url, name=f"regrow-host-{program.name}")
        except BaseException:
            await bus.close()
            raise
        host = Host(hosting, program, url=url, options=_options())
        session = cls(host, bus)
        try:
            await host.start()
        except BaseException:
            await hosting.close()
            await bus.close()
            raise
        return session

    async def start(self, pid: str, type_: ProcessType[Any, Any], bound: Bound) -> RemoteProcess:
        """Start a root on this host."""
        target = _target(type_)
        program = m.Program(target, str(Path.cwd())) if target else None
        return await self.client.start(
            self.app, self.host.env.build, type_.name, bound.args,
            program=program, result_type=type_.signature.result, pid=pid, machine=bound.machine,
        )  # fmt: skip

    async def result(self, process: RemoteProcess) -> Any:
        """Wait for a process; raises the host's error when it cannot go on."""
        waiting = asyncio.ensure_future(process.result())
        try:
            await asyncio.wait([waiting, self.host.failed], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise self.host.failed.result()
            return await waiting
        finally:
            waiting.cancel()

    async def cancel(self, process: RemoteProcess) -> None:
        """Cancel a tree and wait a while for its end."""
        await process.cancel("interrupted")
        try:
            await process.result(CANCEL_GRACE)
        except (ExecutionCancelled, TimeoutError):
            return

    async def close(self) -> None:
        """Stop the host and the connections; the stack stays."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.host.stop()
                await self._forget_build()
        except TimeoutError:  # the event loop is ending, and has cancelled what the connections need
            log.warning("the program ended before its host; `regrow ls` shows what it left")
        finally:
            await self.host.bus.close()
            await self.client.close()
            await self.bus.close()

    async def _forget_build(self) -> None:
        """No process of this run goes on, so nobody needs to know what it was."""
        app, build = subjects.token(self.app), self.host.env.build
        parts = range(self.host.env.partitions)
        owners, cursors = self.bus.kv("regrow_partitions"), self.bus.kv("regrow_cursors")
        try:
            await owners.purge(f"build.{app}.{build}", marker_ttl=MARKER_TTL)
            await asyncio.gather(
                *(owners.purge(f"own.{app}.{build}.{part}", marker_ttl=MARKER_TTL) for part in parts),
                *(cursors.purge(f"{app}.{build}.{part}", marker_ttl=MARKER_TTL) for part in parts),
            )
        except RegrowError as error:
            log.info("the records of build %s stay: %s", build, error)


_sessions: dict[int, tuple[asyncio.Future[Session], list[None]]] = {}
"""By event loop, with one entry for each of its users."""


def here() -> bool:
    """Whether this event loop has a host of its own, so that all processes of its program run here."""
    return id(asyncio.get_running_loop()) in _sessions


class Use:
    """Async context manager: the session of this event loop, opened by the first user and closed by the last."""

    def __init__(self, type_: ProcessType[Any, Any]) -> None:
        self._type = type_
        self._key = 0

    async def __aenter__(self) -> Session:
        self._key = id(asyncio.get_running_loop())
        shared = _sessions.get(self._key)
        if shared is None:
            shared = _sessions[self._key] = (asyncio.ensure_future(Session.open(self._type)), [])
        self._opening, self._users = shared
        self._users.append(None)
        try:
            return await asyncio.shield(self._opening)
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._users.pop()
        if not self._users:
            _sessions.pop(self._key, None)
            await asyncio.shield(_close(self._opening))


async def _close(opening: asyncio.Future[Session]) -> None:
    try:
        session = await opening
    except RegrowError:
        return  # whoever opened it was told
    await session.close()


def new_pid() -> str:
    """For a root."""
    return ids.new_id(ids.PROCESS)
