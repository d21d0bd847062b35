"""What supervisors send to processes."""

from __future__ import annotations

from regrow_protocol import messages, streams, subjects
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError
from regrow_protocol.ids import partition_of

from .partitions import Partitions

FIRST = {"Nats-Expected-Last-Subject-Sequence": "0"}
TIMEOUT = 3.0


class UnknownApp(RegrowError):
    """The app's number of partitions is not known, or not yet."""

    code = "unknown-app"


class Inboxes:
    """Of all processes.

    Args:
        bus: connected.
        partitions: followed by its own task.
    """

    def __init__(self, bus: Bus, partitions: Partitions) -> None:
        self._bus = bus
        self._partitions = partitions

    async def send(self, app: str, pid: str, message: messages.Message, msg_id: str, *, first: bool = False) -> None:
        """Put a message into an inbox; `first`: only where nothing is in it yet.

        Raises:
            UnknownApp: it cannot be said which subject that is.
            WrongRevision: with `first`, something is in it.
            Unreachable: it is not stored within 3 s, and will not be.
        """
        partitions = self._partitions.count(app)
        if partitions is None:
            raise UnknownApp(f"the app {app} is not known yet")
        subject = subjects.inbox(app, partition_of(pid, partitions), pid)
        await self._bus.publish(
            streams.inbox_stream(app), subject, messages.encode(message), msg_id,
            headers=FIRST if first else None, timeout=TIMEOUT, withdraw=True,
        )  # fmt: skip
