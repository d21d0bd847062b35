"""NATS micro services (ADR-32 of NATS) on our own connection, as many as are wanted, coming and going.

`nats micro ls`, `info` and `stats`, and any client of the protocol, find them by `$SRV.PING`, `$SRV.INFO` and
`$SRV.STATS`. nats-py's own services subscribe nine times for each service and twice through queues and tasks; here nine
subscriptions serve them all, and each endpoint has one, with its queue group.

Errors carry the headers `Nats-Service-Error` and `Nats-Service-Error-Code`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct
from regrow_protocol.bus import Bus
from regrow_protocol.bus.wire import find_header, header_lines, hpub, pub
from regrow_protocol.errors import RegrowError

from .logs import get_logger

QUEUE = "q"
"""The queue group where none is said, as in other clients."""
ERROR, ERROR_CODE = "Nats-Service-Error", "Nats-Service-Error-Code"
IN_HAND = 8192
"""Requests that are answered at a time; of more the sender is told so."""
LINGER = 2.0
FAREWELL = 0.1
MAX_TEXT = 1000
_TYPE = "io.nats.micro.v1.{}_response"
_VERBS = ("PING", "INFO", "STATS")


class MicroError(RegrowError):
    """Raised by a handler: the request is answered with this error.

    Attributes:
        status: the error's code, as `400`.
        body: of the answer.
    """

    code = "micro-error"

    def __init__(self, status: int, message: str, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class MicroRequest:
    """A request.

    Attributes:
        subject: it came on.
        reply: where its answer goes; empty for nowhere.
        data: its body.
    """

    __slots__ = ("_bus", "_failed", "_headers", "data", "reply", "subject")

    def __init__(self, bus: Bus, subject: str, reply: str, headers: bytes | None, data: bytes) -> None:
        self._bus = bus
        self._failed = False
        self._headers = headers
        self.subject, self.reply, self.data = subject, reply, data

    def header(self, name: str) -> str:
        """One of its headers; empty where it has none of that name."""
        return (find_header(self._headers, name.encode()) or "") if self._headers is not None else ""

    def respond(self, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send (a part of) the answer. While there is no connection it is lost, as all of core NATS."""
        if not self.reply:
            return
        if headers:
            self._bus.nc.send(hpub(self.reply, "", header_lines(dict(headers)), data))
        else:
            self._bus.nc.send(pub(self.reply, "", data))

    def respond_error(self, error: MicroError) -> None:
        """Send an error; nothing where one was sent before."""
        if self._failed:
            return
        self._failed = True
        text = " | ".join(str(error).split("\n"))[:MAX_TEXT].encode("ascii", "replace").decode()
        self.respond(error.body, {ERROR: " ".join(text.split()) or "failed", ERROR_CODE: str(error.status)})


Handler = Callable[[MicroRequest], Awaitable[bytes | None]]
"""Returns the answer; None where it has sent all there is itself. Raises `MicroError`."""


class Endpoint:
    """An endpoint of a service; made by `MicroService.endpoint`."""

    def __init__(self, name: str, subject: str, queue: str, metadata: Mapping[str, str], handle: Handler) -> None:
        self.name, self.subject, self.queue = name, subject, queue
        self.metadata = dict(metadata)
        self.handle = handle
        self.sid = 0
        self.requests = self.errors = self.nanoseconds = 0
        self.last_error = ""

    def info(self) -> dict[str, Any]:
        return {
            "name": self.name, "subject": self.subject, "queue_group": self.queue, "metadata": self.metadata,
        }  # fmt: skip

    def stats(self) -> dict[str, Any]:
        return {
            "name": self.name, "subject": self.subject, "queue_group": self.queue, "num_requests": self.requests,
            "num_errors": self.errors, "last_error": self.last_error, "processing_time": self.nanoseconds,
            "average_processing_time": self.nanoseconds // max(self.requests, 1), "data": None,
        }  # fmt: skip


class MicroService:
    """An instance of a service; made by `Micro.add`.

    Attributes:
        id: of the instance.
        name, version, description, metadata: as the protocol has them.
        endpoints: by subject.
    """

    def __init__(
        self, micro: Micro, id_: str, name: str, version: str, description: str, metadata: Mapping[str, str]
    ) -> None:
        self._micro = micro
        self.id, self.name, self.version, self.description = id_, name, version, description
        self.metadata = dict(metadata)
        self.endpoints: dict[str, Endpoint] = {}
        self.started = datetime.now(UTC)

    def endpoint(
        self, name: str, subject: str, handle: Handler, *, queue: str = QUEUE, metadata: Mapping[str, str] | None = None
    ) -> Endpoint:
        """Serve `subject`; one that is served already gets the new handler and metadata, and keeps its counts."""
        known = self.endpoints.get(subject)
        if known is not None and known.queue == queue:
            known.name, known.handle, known.metadata = name, handle, dict(metadata or {})
            return known
        endpoint = self.endpoints[subject] = Endpoint(name, subject, queue, metadata or {}, handle)
        self._micro.subscribe(endpoint)
        return endpoint

    def drop(self, subject: str) -> None:
        """Serve a subject no more."""
        endpoint = self.endpoints.pop(subject, None)
        if endpoint is not None:
            self._micro.unsubscribe(endpoint)

    def answer(self, verb: str) -> dict[str, Any]:
        """What it says to a request of discovery."""
        common = {
            "name": self.name, "id": self.id, "version": self.version, "metadata": self.metadata,
            "type": _TYPE.format(verb.lower()),
        }  # fmt: skip
        if verb == "INFO":
            return {
                **common, "description": self.description, "endpoints": [e.info() for e in self.endpoints.values()],
            }  # fmt: skip
        if verb == "STATS":
            started = self.started.isoformat().replace("+00:00", "Z")
            return {**common, "started": started, "endpoints": [e.stats() for e in self.endpoints.values()]}
        return common


class Micro:
    """The services of one connection.

    Attributes:
        services: by id.
    """

    def __init__(self, bus: Bus) -> None:
        self.services: dict[str, MicroService] = {}
        self._bus = bus
        self._sids: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = get_logger("micro")

    def open(self) -> None:
        """Answer discovery."""
        for verb in _VERBS:
            for pattern in (f"$SRV.{verb}", f"$SRV.{verb}.*", f"$SRV.{verb}.*.*"):
                self._sids.append(self._bus.nc.raw_subscribe(pattern, partial(self._asked, verb)))

    async def close(self, grace: float = 0.0) -> None:
        """Take no more requests; what is in hand gets `grace` seconds."""
        for sid in self._sids:
            self._bus.nc.raw_unsubscribe(sid)
        self._sids.clear()
        for service in list(self.services.values()):
            self.remove(service)
        if grace:
            await asyncio.sleep(min(grace, FAREWELL))  # for what is on its way
        if self._tasks and grace:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def add(
        self, name: str, *, version: str, description: str = "", metadata: Mapping[str, str] | None = None
    ) -> MicroService:
        """A service without endpoints."""
        service = MicroService(self, self._bus.fresh_id(), name, version, description, metadata or {})
        self.services[service.id] = service
        return service

    def remove(self, service: MicroService) -> None:
        """End a service."""
        self.services.pop(service.id, None)
        for subject in list(service.endpoints):
            service.drop(subject)

    def subscribe(self, endpoint: Endpoint) -> None:
        """Take requests for an endpoint."""
        endpoint.sid = self._bus.nc.raw_subscribe(endpoint.subject, partial(self._requested, endpoint), endpoint.queue)

    def unsubscribe(self, endpoint: Endpoint) -> None:
        """Take none any more, but for those that are on their way: the server gave them to us, and to nobody else."""
        self._bus.nc.raw_unsubscribe(endpoint.sid, linger=LINGER)

    def _asked(self, verb: str, subject: bytes, reply: bytes, _headers: bytes | None, _data: bytes) -> None:
        if not reply:
            return
        _, _, *which = subject.decode("utf-8", "replace").split(".")
        name, id_ = [*which, "", ""][:2]
        asked = [self.services[id_]] if id_ in self.services else [] if id_ else list(self.services.values())
        for service in asked:
            if name in ("", service.name):
                self._bus.nc.send(pub(reply.decode(), "", self._fitting(service.answer(verb))))

    def _fitting(self, answer: dict[str, Any]) -> bytes:
        """As one message: what is too large goes without its endpoints' metadata."""
        body = msgspec.json.encode(answer)
        if len(body) > self._bus.nc.max_payload:
            for endpoint in answer.get("endpoints", []):
                endpoint.pop("metadata", None)
            body = msgspec.json.encode(answer)
        return body

    def _requested(self, endpoint: Endpoint, subject: bytes, reply: bytes, headers: bytes | None, data: bytes) -> None:
        request = MicroRequest(self._bus, subject.decode(), reply.decode(), headers, data)
        if len(self._tasks) >= IN_HAND:
            request.respond_error(MicroError(503, "too many requests are in hand; try again"))
            return
        task = asyncio.get_running_loop().create_task(self._serve(endpoint, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, endpoint: Endpoint, request: MicroRequest) -> None:
        began = time.perf_counter_ns()
        try:
            answer = await endpoint.handle(request)
        except MicroError as error:
            self._failed(endpoint, request, error)
        except asyncio.CancelledError:
            request.respond_error(MicroError(503, "this replica of the service ends; ask again"))
            raise
        except Exception as error:  # noqa: BLE001 - logged, and its caller must hear of it
            self._log.exception("a request failed", subject=request.subject)
            self._failed(endpoint, request, MicroError(500, f"{type(error).__name__}: {error}"))
        else:
            if answer is not None:
                request.respond(answer)
        finally:
            endpoint.requests += 1
            endpoint.nanoseconds += time.perf_counter_ns() - began

    def _failed(self, endpoint: Endpoint, request: MicroRequest, error: MicroError) -> None:
        endpoint.errors += 1
        endpoint.last_error = f"{error.status}:{error.message}"
        request.respond_error(error)


class ErrorBody(Struct, omit_defaults=True):
    """The body of an error's answer.

    Attributes:
        error: stable, for programs.
        message: for people.
    """

    error: str
    message: str
