"""Messages into the inboxes of processes."""

from __future__ import annotations

from msgspec import Struct
from regrow_protocol import ids, messages, streams, subjects, values
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError

PUBLISH_TIMEOUT = 10.0


class NoSuchApp(RegrowError):
    """Nobody has ever seen the app."""

    code = "no-such-app"


class Inboxes:
    """Over one bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._partitions: dict[str, int] = {}

    async def put(self, app: str, pid: str, message: Struct, msg_id: str) -> int:
        """Put a message into an inbox; its sequence.

        Raises:
            NoSuchApp: the app has no inboxes.
            Unreachable: it may or may not be stored; call again with the same id.
        """
        payload = messages.encode(message)
        if len(payload) > messages.MAX_INLINE:
            message, blobs = values.deflate(message)
            for blob in blobs:
                await self._bus.put_value(blob)
            payload = messages.encode(message)
        part = ids.partition_of(pid, await self._of(app))
        ack = await self._bus.publish(
            streams.inbox_stream(app),
            subjects.inbox(app, part, pid),
            payload,
            msg_id,
            timeout=PUBLISH_TIMEOUT,
            withdraw=True,
        )
        return ack.seq

    async def _of(self, app: str) -> int:
        if app not in self._partitions:
            found = await self._bus.kv("regrow_partitions").get(f"app.{subjects.token(app)}")
            if found is None:
                raise NoSuchApp(f"There is no app {app!r}")
            self._partitions[app] = messages.decode(found[0], messages.AppRecord).partitions
        return self._partitions[app]
