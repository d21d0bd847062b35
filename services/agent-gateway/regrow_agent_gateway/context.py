"""What the parts of one gateway share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from regrow_protocol.agents import AgentRecord
from regrow_protocol.bus import Bus
from regrow_service.answers import Answers
from regrow_service.metrics import Metrics

from .conversations import Conversations
from .inboxes import Inboxes
from .records import Records
from .results import Results
from .settings import GatewaySettings


@dataclass
class Context:
    """One gateway's.

    Attributes:
        secret: that tokens are made with.
        port: of the doors.
        background: runs a coroutine, which sees to its own errors, until it ends or the service does.
        stopping: the service is to end.
    """

    bus: Bus
    settings: GatewaySettings
    metrics: Metrics
    records: Records
    conversations: Conversations
    inboxes: Inboxes
    results: Results
    answers: Answers
    secret: bytes
    port: int
    background: Callable[[Coroutine[Any, Any, None], str], None]
    stopping: asyncio.Event

    def url(self, record: AgentRecord | None = None) -> str:
        """Where agents reach the doors: that one, on its machine."""
        machine = record.machine if record is not None else None
        return self.settings.url(self.port, machine.backend if machine is not None else "")
