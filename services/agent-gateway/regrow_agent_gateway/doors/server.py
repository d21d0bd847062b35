"""The server of the doors: one ASGI app on one port, on the service's own loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from regrow_protocol.errors import RegrowError
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..settings import GatewaySettings

BACKLOG = 2048


class PortTaken(RegrowError):
    """The doors' port cannot be listened on."""

    code = "port-taken"


def listen(settings: GatewaySettings) -> list[socket.socket]:
    """The sockets that the doors are served on, all of one port. Raises PortTaken."""
    made: list[socket.socket] = []
    try:
        for host in settings.hosts():
            port = made[0].getsockname()[1] if made else settings.gateway_port
            made.append(_listen(host, port, share=settings.gateway_share_port))
    except PortTaken:
        for each in made:
            each.close()
        raise
    return made


def _listen(host: str, port: int, *, share: bool) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        hint = "choose another REGROW_GATEWAY_PORT; replicas on one computer need REGROW_GATEWAY_SHARE_PORT"
        raise PortTaken(f"{host}:{port} cannot be listened on: {error.strerror}", hint=hint) from error
    made.setblocking(False)
    return made


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are the service's."""
        yield


class DoorServer:
    """Serves `app` on `listening`.

    Args:
        grace: seconds that requests may take to end when `stop` was called.
        cut: called when a client of a plain request was cut since it took no data.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        app: ASGIApp,
        listening: list[socket.socket],
        grace: float,
        cut: Callable[[], None],
    ) -> None:
        self._app = app
        self._slow = settings.gateway_slow
        self._cut = cut
        config = uvicorn.Config(
            self._serve,
            ws="websockets-sansio",
            http="h11",
            interface="asgi3",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ws_max_size=settings.gateway_max_body,
            ws_ping_interval=settings.gateway_heartbeat,
            ws_ping_timeout=settings.gateway_heartbeat,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=max(int(grace), 1),
        )
        self._server = _Server(config)
        self._listening = listening

    async def run(self) -> None:
        """Serve until `stop`."""
        await self._server.serve(self._listening)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app, with an end to whoever takes no data; WebSockets see to that themselves."""

        async def sent(message: Message) -> None:
            try:
                async with asyncio.timeout(self._slow):
                    await send(message)
            except TimeoutError:
                self._cut()
                self.abort(HTTPConnection(scope))
                raise ClientDisconnect from None

        try:
            await self._app(scope, receive, sent if scope["type"] == "http" else send)
        except ClientDisconnect:
            return

    def stop(self) -> None:
        """Take no more connections; `run` returns when those that are open have ended."""
        self._server.should_exit = True

    def abort(self, connection: HTTPConnection) -> None:
        """Cut a connection without waiting for what its client has not taken."""
        client = connection.scope.get("client")
        for open_ in list(self._server.server_state.connections):
            protocol: Any = open_
            if protocol.client == client and protocol.transport is not None:
                protocol.transport.abort()


async def serve(server: DoorServer, stopping: asyncio.Event) -> None:
    """Run the server until the service stops and its connections have ended."""
    running = asyncio.ensure_future(server.run())
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
        server.stop()
        await running
    finally:
        stop.cancel()
        running.cancel()
