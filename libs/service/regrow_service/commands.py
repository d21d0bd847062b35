"""Commands that stay in hand for as long as what they ask for takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from regrow_protocol import messages
from regrow_protocol.bus import Bus, Received
from regrow_protocol.messages import Command
from regrow_protocol.streams import COMMANDS

from .consumer import Consumer
from .metrics import Metrics
from .retry import Retry

Handle = Callable[[Command, Received], Awaitable[None]]
Lost = Callable[[Command, str], Awaitable[None]]

IN_HAND = 8192
MAX_ACK_PENDING = 100_000
RETRY = Retry(attempts=50)
"""A command may outlive many replicas of the service that has it in hand."""


def in_hand(
    bus: Bus, metrics: Metrics, *, service: str, name: str, subject: str, handle: Handle, lost: Lost
) -> Consumer[Command]:
    """The consumer of the commands on `subject`; for the rest see `Consumer`."""
    return Consumer(
        bus,
        metrics,
        service=service,
        name=name,
        stream=COMMANDS,
        filters=[subject],
        decode=_decode,
        handle=handle,
        lost=lost,
        concurrency=IN_HAND,
        max_ack_pending=MAX_ACK_PENDING,
        retry=RETRY,
        timeout=None,
    )


def _decode(body: bytes) -> Command:
    return messages.decode(body, Command)
