"""A record of every call from outside: who called what, how long it took, what came of it. Never its content."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from msgspec import Raw
from regrow_protocol import messages
from regrow_protocol.bus import Bus
from regrow_protocol.endpoints import CallRecord, call_record_subject
from regrow_protocol.errors import RegrowError
from regrow_protocol.messages import Failure, Reply
from regrow_protocol.streams import CALLS as STREAM
from regrow_service.answers import failure
from regrow_service.metrics import Metrics
from regrow_service.validation import InvalidArguments

from .calling import Target
from .measures import CALLING, CALLS, WAITING

HOW = {"process-ended": "refused", "invalid-arguments": "refused"}


class Record:
    """Of one call that is under way.

    Attributes:
        error: it has failed with.
        size: bytes of its result.
    """

    def __init__(self) -> None:
        self.error: Failure | None = None
        self.size = 0

    def answered(self, reply: Reply) -> None:
        """The process has answered."""
        self.error = reply.error
        self.size = len(bytes(reply.value)) if isinstance(reply.value, Raw) else 0


class Recording:
    """Publishes records over `bus`."""

    def __init__(self, bus: Bus, metrics: Metrics) -> None:
        self._bus = bus
        self._metrics = metrics

    @contextmanager
    def of(self, target: Target, id_: str, caller: str) -> Generator[Record]:
        """Record a call that is made inside the `with`; one that is given up (cancelled) has not ended."""
        record, started = Record(), time.time()
        waiting = self._metrics[WAITING]
        waiting.inc()
        try:
            with self._metrics[CALLING].time():
                yield record
        except TimeoutError:
            record.error = Failure("TimeoutError", "not answered in time", "late")
            self._publish(target, id_, caller, started, record, "late")
            raise
        except RegrowError as error:
            record.error = failure(error)
            how = "refused" if isinstance(error, InvalidArguments) else "failed"
            self._publish(target, id_, caller, started, record, how)
            raise
        else:
            how = "ok" if record.error is None else HOW.get(record.error.code, "failed")
            self._publish(target, id_, caller, started, record, how)
        finally:
            waiting.dec()

    def _publish(self, target: Target, id_: str, caller: str, started: float, record: Record, how: str) -> None:
        self._metrics[CALLS].labels(how).inc()
        app, pid, endpoint = target.record.app, target.record.pid, target.tool.name
        body = CallRecord(
            id=id_, app=app, pid=pid, endpoint=endpoint, caller=caller, started=started,
            duration=time.time() - started, size=record.size, error=record.error,
        )  # fmt: skip
        self._bus.publish_soon(STREAM, call_record_subject(app, pid, endpoint), messages.encode(body), f"{id_}.called")
