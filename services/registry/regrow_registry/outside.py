"""Public processes as NATS micro services: `regrow.api.<name>.<endpoint>` from any NATS client.

Every registry offers the service of every public name, with the queue group that clients of micro services expect, so
one of them gets each request. The call is durable, the request is not: when its registry dies, whoever asked hears
nothing and asks again. With the header `Nats-Msg-Id` the repeat is the same call, which the process takes once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import partial

import msgspec
from msgspec import Raw
from regrow_protocol import messages, subjects
from regrow_protocol.agents import Tool
from regrow_protocol.bus import Bus
from regrow_protocol.endpoints import EndpointsRecord, api_subject
from regrow_protocol.errors import PublishRejected, RegrowError
from regrow_protocol.ids import COMMAND, new_id
from regrow_protocol.messages import Failure
from regrow_service.logs import get_logger
from regrow_service.micro import Micro, MicroError, MicroRequest, MicroService
from regrow_service.validation import InvalidArguments

from .calling import Calling, EndpointNotFound, ProcessNotFound, Target
from .handling import caller_of
from .recording import Recording
from .records import Records

STATUS = {
    "invalid-arguments": 400,
    "endpoint-not-found": 404,
    "process-not-found": 404,
    "process-ended": 410,
    "late": 504,
}
"""Of an error by its code; 500 otherwise."""
VERSION = "1.0.0"
MAX_DESCRIPTION = 200

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


class ErrorBody(msgspec.Struct):
    """The body of an error's answer, beside the headers that micro services have."""

    error: str
    message: str
    code: str
    retryable: bool


class Outside:
    """Of one registry; `open` it once the records are current."""

    def __init__(
        self, bus: Bus, micro: Micro, records: Records, calling: Calling, recording: Recording, patience: float
    ) -> None:
        self._bus = bus
        self._micro = micro
        self._records = records
        self._calling = calling
        self._recording = recording
        self._patience = patience
        self._services: dict[str, MicroService] = {}
        self._served: dict[str, EndpointsRecord] = {}
        self._log = get_logger("outside")

    def open(self) -> None:
        """Offer what is public, and follow that."""
        self._records.subscribe(self._changed)
        for name in list(self._records.names):
            self._changed(name)

    def _changed(self, name: str) -> None:
        record = self._records.serving(name)
        old = self._served.get(name)
        if record == old:
            return
        if old is not None and (record is None or record.pid != old.pid or record.type != old.type):
            self._micro.remove(self._services.pop(name))
            del self._served[name]
        if record is None:
            return
        self._served[name] = record
        service = self._services.get(name)
        if service is None:
            service = self._services[name] = self._micro.add(
                plain(name),
                version=VERSION,
                description=f"{record.type}, a process of the app {record.app}",
                metadata={"pid": record.pid, "app": record.app, "type": record.type, "name": name},
            )
        wanted = {api_subject(name, tool.name): tool for tool in record.endpoints.values()}
        for subject in service.endpoints.keys() - wanted.keys():
            service.drop(subject)
        for subject, tool in wanted.items():
            handle = partial(self._request, Target(record, tool))
            service.endpoint(plain(tool.name), subject, handle, metadata=_metadata(tool))

    async def _request(self, target: Target, request: MicroRequest) -> bytes:
        given = request.header("Nats-Msg-Id")
        caller = request.header("Regrow-Caller") or caller_of(request.reply)
        id_ = f"{target.record.pid}.{given}" if given else new_id(COMMAND)
        try:
            with self._recording.of(target, subjects.token(id_[:100]), caller) as record:
                async with asyncio.timeout(self._patience):
                    args = Raw(request.data.strip() or b"{}")
                    reply = await self._calling.call(target, args, key=f"request.{given}" if given else "")
                record.answered(reply)
        except TimeoutError as error:
            late = Failure("TimeoutError", f"not answered within {self._patience:g} s; the call stands", "late")
            raise _refusal(late) from error
        except (InvalidArguments, ProcessNotFound, EndpointNotFound) as error:
            raise _refusal(Failure(type(error).__name__, str(error), error.code, False)) from error
        except PublishRejected as error:
            raise _refusal(Failure("PublishRejected", str(error), error.code, False)) from error
        except RegrowError as error:
            self._log.warning("a call could not be made", pid=target.record.pid, reason=str(error))
            raise MicroError(503, f"not now: {error}") from error
        if reply.error is not None:
            raise _refusal(reply.error)
        answer = bytes(reply.value) if isinstance(reply.value, Raw) else b"null"
        if len(answer) > self._bus.nc.max_payload:
            raise MicroError(
                500, f"the result of {len(answer):,} bytes is too large for an answer; the durable call takes it"
            )
        return answer


def _refusal(error: Failure) -> MicroError:
    body = ErrorBody(error.error, error.message, error.code, error.retryable)
    return MicroError(STATUS.get(error.code, 500), error.message, messages.encode(body))


def _metadata(tool: Tool) -> Mapping[str, str]:
    return {
        "schema": bytes(tool.schema).decode(),
        "description": tool.description[:MAX_DESCRIPTION],
        "version": tool.version,
    }


def plain(name: str) -> str:
    """A name as micro services take it: letters, digits, `-` and `_`."""
    return _UNSAFE.sub("_", name)
