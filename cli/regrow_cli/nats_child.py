"""The stack's NATS server: on the same port with the same credentials over every restart, so that programs come back.

Two users: `regrow` for programs, `stack` for what the stack runs itself; by them the stack knows whether anybody else
is connected. Ports and passwords are made once per data folder (`endpoint.json`). Where a port has been taken by
somebody else meanwhile, the server gets new ones and whoever asked is told.

The server outlives a killed stack (programs go on working); the next stack ends it before it starts its own, since two
servers on one store would ruin it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import time
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace
from regrow_protocol.server import NatsServer, PortTaken, ServerError
from regrow_service.logs import Logger

from .children import BackOff
from .data_dir import STACK_USER, ChildRecord, DataDir, read, write
from .os_process import Identity, end, identify, is_alive, running_with_argument, send

NAME = "nats"
APP_USER = "regrow"
_POLL = 0.05
_STOP = 2.0
_PORT_TRIES = 3


class Endpoint(Struct, frozen=True):
    """`endpoint.json`: where the server listens and who may connect; port 0 lets the server choose."""

    port: int
    monitor_port: int
    app_password: str
    stack_password: str

    def url(self, user: str) -> str:
        """For programs (`APP_USER`) or what the stack runs itself (`STACK_USER`)."""
        password = self.app_password if user == APP_USER else self.stack_password
        return f"nats://{user}:{password}@127.0.0.1:{self.port}"

    @property
    def monitor(self) -> str:
        """URL of the monitoring."""
        return f"http://127.0.0.1:{self.monitor_port}"


class NatsChild:
    """Starts the server, restarts it when it dies, stops it.

    Attributes:
        endpoint: valid once `start` has returned.
        restarts, since, last_exit: as in `ChildRecord`.
    """

    def __init__(self, place: DataDir, log: Logger, on_change: Callable[[], None]) -> None:
        self.restarts = 0
        self.since = 0.0
        self.last_exit = ""
        self._place = place
        self._log = log
        self._on_change = on_change
        self._server: NatsServer | None = None
        self.endpoint = read(place.endpoint, Endpoint) or Endpoint(0, 0, secrets.token_hex(20), secrets.token_hex(20))

    @property
    def record(self) -> ChildRecord | None:
        """For `children.json`; None while it does not run."""
        pid = self._server.pid if self._server else None
        process = identify(pid) if pid else None
        return ChildRecord(NAME, process, self.restarts, self.since, self.last_exit) if process else None

    async def start(self, *, timeout: float = 60.0) -> None:
        """Start it on its ports, or on others when they are taken.

        Raises:
            ServerError: it does not come up.
        """
        try:
            await self._launch(timeout)
        except PortTaken:
            if not self.endpoint.port:
                raise
            self._log.warning("port taken, choosing another", port=self.endpoint.port)
            self.endpoint = replace(self.endpoint, port=0, monitor_port=0)
            await self._launch(timeout)

    async def keep(self, on_move: Callable[[], None]) -> None:
        """Start it again whenever it has ended, until cancelled; `on_move`: it had to take another port."""
        back_off = BackOff()
        while True:
            while self._server is not None and self._server.pid is not None:  # noqa: ASYNC110 - a process, no event
                await asyncio.sleep(_POLL)
            ran_for = time.time() - self.since
            self.last_exit = "ended unasked"
            self._on_change()
            before = self.endpoint
            await self._restart(back_off, ran_for)
            self.restarts += 1
            self._on_change()
            if self.endpoint != before:
                on_move()

    async def _restart(self, back_off: BackOff, ran_for: float) -> None:
        taken = 0
        while True:
            pause = back_off.after(ran_for)
            self._log.warning("NATS server ended", restart_in=pause, output=str(self._place.logs / "nats.log"))
            await asyncio.sleep(pause)
            try:
                # What just ended may still hold the port: only after some tries is it somebody else's.
                await (self.start() if taken >= _PORT_TRIES else self._launch(60.0))
            except ServerError as error:
                taken += isinstance(error, PortTaken)
                ran_for = 0.0
                self._log.warning("NATS server cannot be started", reason=str(error))
            else:
                return

    async def stop(self) -> None:
        """End it gracefully, after two seconds by force."""
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.stop, _STOP)

    async def _launch(self, timeout: float) -> None:
        starting = asyncio.ensure_future(asyncio.to_thread(self._start_server, timeout))
        try:
            server = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread ends as soon as the server does.
            for process in orphans(self._place):
                send(process, signal.SIGTERM)
            await asyncio.wait([starting])
            if not starting.exception():
                await asyncio.to_thread(starting.result().stop, _STOP)
            raise
        self._server, self.since = server, time.time()
        monitor_port = int(server.monitor_url.rsplit(":", 1)[1])
        if (self.endpoint.port, self.endpoint.monitor_port) != (server.port, monitor_port):
            self.endpoint = replace(self.endpoint, port=server.port, monitor_port=monitor_port)
            write(self._place.endpoint, self.endpoint)
        self._log.info("NATS server started", os_pid=server.pid, port=server.port)
        self._on_change()

    def _start_server(self, timeout: float) -> NatsServer:
        users = [
            {"user": APP_USER, "password": self.endpoint.app_password},
            {"user": STACK_USER, "password": self.endpoint.stack_password},
        ]
        extra = [f"authorization {{ users: {json.dumps(users)} }}"]
        if self.endpoint.monitor_port:
            extra.append(f"http: 127.0.0.1:{self.endpoint.monitor_port}")
        return NatsServer.start(
            self._place.store,
            port=self.endpoint.port or -1,
            monitor=not self.endpoint.monitor_port,
            extra="\n".join(extra),
            log_file=self._place.logs / "nats.log",
            detached=True,
            timeout=timeout,
        )


def orphans(place: DataDir) -> list[Identity]:
    """Servers that hold the store of this folder, whoever started them."""
    return running_with_argument(str(place.store / "nats-server.conf"))


def end_orphans(place: DataDir) -> list[Identity]:
    """End what a killed stack left behind, services before the server they use; blocks. Returns what was ended.

    Raises:
        ServerError: something holds the store and cannot be ended.
    """
    records = read(place.children, list[ChildRecord]) or []
    services = [record.process for record in records if record.name != NAME]
    ended = [process for process in services if send(process, signal.SIGTERM)]
    for process in ended:
        end(process, grace=_STOP)
    # One that is dying has no command line any more: it is found by its record only.
    dying = [record.process for record in records if record.name == NAME and is_alive(record.process)]
    for process in {*orphans(place), *dying}:
        if not end(process, grace=_STOP):
            raise ServerError(
                f"The NATS server with pid {process.pid} holds {place.store} and cannot be ended",
                hint=f"end it yourself: kill -9 {process.pid}",
            )
        ended.append(process)
    place.children.unlink(missing_ok=True)
    return ended
