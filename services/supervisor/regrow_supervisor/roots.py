"""Roots that go down are started again, as their policy says: for them the supervisor is what a parent is for others.

The process itself decides that it comes again, and when (`down`, with the time after its back-off), so that nothing is
kept here: until then the event is given back to its consumer, which any supervisor may take it from. `again` names the
incarnation that it begins, so that it takes effect once, however often it is sent.
"""

from __future__ import annotations

import time

from regrow_protocol import messages as m
from regrow_protocol import streams, subjects
from regrow_protocol.bus import Bus, Received
from regrow_protocol.messages import Again, EventRecord, RootDown
from regrow_service.consumer import Consumer, Later
from regrow_service.logs import get_logger
from regrow_service.metrics import Metrics

from .inboxes import Inboxes, UnknownApp
from .measures import ROOTS

NOT_YET = 1.0
"""Seconds until an app that is not known is looked for again."""
MAX_DOWN = 100_000
"""Roots that may be down at once, over all supervisors; more wait for these."""


class Roots:
    """Of one supervisor; `consumer` does the work."""

    def __init__(self, bus: Bus, inboxes: Inboxes, metrics: Metrics, service: str) -> None:
        self._inboxes = inboxes
        self._counted = metrics[ROOTS]
        self._log = get_logger("roots")
        self.consumer: Consumer[EventRecord] = Consumer(
            bus,
            metrics,
            service=service,
            name="supervisor-roots",
            stream=streams.EVENTS,
            filters=[subjects.events_of(type_="down")],
            decode=lambda data: m.decode(data, EventRecord),
            handle=self._down,
            concurrency=64,
            max_ack_pending=MAX_DOWN,
        )

    async def _down(self, event: EventRecord, message: Received) -> None:
        if event.meta is None or event.meta.parent is not None:
            return  # a program's own event
        down = m.decode(event.data, RootDown)
        if (wait := down.again_at - time.time()) > 0:
            raise Later("its back-off is not over", delay=wait)
        app, pid, _ = subjects.event_parts(message.subject)
        again = event.incarnation + 1
        try:
            await self._inboxes.send(app, pid, Again(incarnation=again), f"{pid}.{again}.again")
        except UnknownApp as error:
            raise Later(str(error), delay=NOT_YET) from None
        self._counted.labels(app).inc()
        self._log.info("root started again", pid=pid, app=app, incarnation=again, ended=down.status)
