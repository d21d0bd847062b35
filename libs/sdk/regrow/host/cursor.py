"""The cursor of a partition in `regrow_cursors`: written by compare-and-set under the owner's epoch."""

from __future__ import annotations

import logging

import msgspec
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError, WrongRevision
from regrow_protocol.subjects import token

log = logging.getLogger("regrow.cursor")


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
                left: m.Cursor = m.decode(found[0], m.Cursor)
                if left.epoch > self._epoch:
                    raise OwnershipLost(f"Partition {self._key} has a newer owner (epoch {left.epoch})")
                self.cursor = msgspec.structs.replace(left, epoch=self._epoch, clean=False)
                self._revision = await self._bucket.update(self._key, m.encode(self.cursor), found[1])
            except WrongRevision:
                continue
            return left

    async def write(self, cursor: m.Cursor) -> None:
        """Write it; raises OwnershipLost when somebody else has."""
        if cursor == self.cursor:
            return
        try:
            self._revision = await self._bucket.update(self._key, m.encode(cursor), self._revision)
        except WrongRevision:
            found = await self._bucket.get(self._key)
            if found is None or m.decode(found[0], m.Cursor).epoch != self._epoch:
                raise OwnershipLost(f"Partition {self._key} has another owner") from None
            # The last write was stored although its acknowledgement got lost.
            self._revision = await self._bucket.update(self._key, m.encode(cursor), found[1])
        self.cursor = cursor

    async def read_floor_of(self, app: str, build: str, part: int) -> m.Cursor | None:
        """The cursor of another build of the same partition."""
        found = await self._bucket.get(cursor_key(app, build, part))
        return None if found is None else m.decode(found[0], m.Cursor)
