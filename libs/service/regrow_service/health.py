"""`/metrics`, `/healthz` and `/readyz` over HTTP/1.1, on the service's own loop.

`/healthz` answers 200 while the loop turns: who restarts services asks it. `/readyz` answers 200 only while every check
passes, and 503 with the reasons otherwise: who sends traffic, or waits for a service to be up, asks it; `os_pid` tells
which program answers. One request per connection; a client that is slow to ask is dropped.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from types import TracebackType

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from .logs import get_logger
from .metrics import Metrics

Check = Callable[[], str]
"""Says what is wrong, or the empty string."""

MAX_REQUEST = 16 * 1024
REQUEST_TIMEOUT = 5.0
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
_JSON = "application/json"


class HealthServer:
    """The health server of one service; `async with` starts and stops it.

    Args:
        metrics: what `/metrics` shows.
        checks: by name, what `/readyz` asks.
        host: address to bind to; loopback by default.
        port: 0 lets the system choose; `self.port` is the one in use.
    """

    def __init__(
        self, metrics: Metrics, checks: Mapping[str, Check], *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.metrics, self.checks, self.host, self.port = metrics, checks, host, port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._log = get_logger("health")

    async def __aenter__(self) -> HealthServer:
        self._server = await asyncio.start_server(self._serve, self.host, self.port, limit=MAX_REQUEST)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = self._answer(head)
                writer.write(_response(status, kind, b"" if head.startswith(b"HEAD ") else body, len(body)))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError) as error:
            self._log.debug("dropped a request", reason=repr(error))
        finally:
            self._open.discard(task)
            writer.close()

    def _answer(self, head: bytes) -> tuple[int, str, bytes]:
        match head.split(b"\r\n", 1)[0].split(b" "):
            case [b"GET" | b"HEAD", target, _]:
                path = target.split(b"?", 1)[0]
            case [_, _, _]:
                return 405, "text/plain", b"GET or HEAD, please\n"
            case _:
                return 400, "text/plain", b"not HTTP\n"
        if path == b"/metrics":
            return 200, CONTENT_TYPE_LATEST, self.metrics.exposition()
        if path == b"/healthz":
            return 200, _JSON, b'{"status":"ok"}\n'
        if path == b"/readyz":
            wrong = {name: reason for name, check in self.checks.items() if (reason := check())}
            answer = {"status": "not ready" if wrong else "ready", "wrong": wrong, "os_pid": os.getpid()}
            return (503 if wrong else 200), _JSON, msgspec.json.encode(answer) + b"\n"
        return 404, "text/plain", b"/metrics, /healthz or /readyz\n"


def _response(status: int, kind: str, body: bytes, length: int) -> bytes:
    return (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n"
        "connection: close\r\ncache-control: no-store\r\n\r\n"
    ).encode() + body
