"""The cursor of a partition in `regrow_cursors`: written by compare-and-set under the owner's epoch."""

from __future__ import annotations

import logging

import msgspec
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError, WrongRevision
from regrow_protocol.subjects import token

log = logging.getLogger("regrow.cursor")

MAX_REASON = 500
"""Characters of the reason why a process is parked."""
MAX_BYTES = 512 * 1024
"""A cursor that would be larger goes without those reasons."""


class OwnershipLost(RegrowError):
    """Another host owns the partition now."""

    code = "ownership-lost"


def cursor_key(app: str, build: str, part: int) -> str:
    """Its key."""
    return f"{token(app)}.{build}.{part}"


class CursorKeeper:
    """Reads and writes one cursor.

    Attributes:
        cursor: as it was last written.
    """

    def __init__(self, bus: Bus, app: str, build: str, part: int, epoch: int) -> None:
        self._bucket = bus.kv("regrow_cursors")
        self._app = app
        self._part = part
        self._key = cursor_key(app, build, part)
        self._epoch = epoch
        self._revision = 0
        self.cursor = m.Cursor(epoch=epoch, floor=0)

    async def take_over(self, since: int) -> m.Cursor:
        """Write the cursor under this epoch; returns what the last owner left. Raises OwnershipLost for an old epoch.

        Args:
            since: the floor when there is no cursor yet.
        """
        while True:
            found = await self._bucket.get(self._key)
            try:
                if found is None:
                    self.cursor = m.Cursor(epoch=self._epoch, floor=since)
                    self._revision = await self._bucket.create(self._key, m.encode(self.cursor))
                    return msgspec.structs.replace(self.cursor, clean=True)
                left = self._decode(found[0])
                if left.epoch > self._epoch:
                    raise OwnershipLost(f"Partition {self._key} has a newer owner (epoch {left.epoch})")
                self.cursor = msgspec.structs.replace(left, epoch=self._epoch, clean=False, released=False)
                self._revision = await self._bucket.update(self._key, m.encode(self.cursor), found[1])
            except WrongRevision:
                continue
            return left

    async def write(self, cursor: m.Cursor) -> None:
        """Write it; raises OwnershipLost when somebody else has, Unreachable when it may not have been stored."""
        if cursor == self.cursor:
            return
        payload = m.encode(cursor)
        if len(payload) > MAX_BYTES:
            stuck = {pid: msgspec.structs.replace(stuck, reason="") for pid, stuck in cursor.stuck.items()}
            payload = m.encode(msgspec.structs.replace(cursor, stuck=stuck))
            log.warning("the cursor of partition %s is large: %d processes are parked", self._key, len(stuck))
        try:
            self._revision = await self._bucket.update(self._key, payload, self._revision)
        except WrongRevision:
            found = await self._bucket.get(self._key)
            if found is None or self._decode(found[0]).epoch != self._epoch:
                raise OwnershipLost(f"Partition {self._key} has another owner") from None
            # The last write was stored although its acknowledgement got lost.
            self._revision = await self._bucket.update(self._key, payload, found[1])
        self.cursor = cursor

    async def look(self) -> m.Cursor | None:
        """As it stands, whoever wrote it."""
        found = await self._bucket.get(self._key)
        return None if found is None else self._decode(found[0])

    async def of_build(self, build: str) -> m.Cursor | None:
        """The cursor of another build of the same partition."""
        found = await self._bucket.get(cursor_key(self._app, build, self._part))
        return None if found is None else self._decode(found[0])

    def _decode(self, value: bytes) -> m.Cursor:
        return _decode(value, self._key)


def _decode(value: bytes, key: str) -> m.Cursor:
    try:
        return m.decode(value, m.Cursor)
    except msgspec.MsgspecError as error:
        raise RegrowError(
            f"The cursor {key} does not decode: {error}",
            hint="delete the key from regrow_cursors: its partition is then folded from its build's first input",
        ) from error


async def condemn(bus: Bus, key: str, epoch: int, pid: str, stuck: m.Stuck) -> None:
    """Note in the cursor of a host that is about to end, by itself, which process is to blame."""
    bucket = bus.kv("regrow_cursors")
    found = await bucket.get(key)
    if found is None or (cursor := _decode(found[0], key)).epoch != epoch:
        return
    noted = msgspec.structs.replace(cursor, stuck={**cursor.stuck, pid: stuck}, suspect=None)
    await bucket.update(key, m.encode(noted), found[1])
