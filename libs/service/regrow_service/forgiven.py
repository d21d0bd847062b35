"""How often messages were given back with `Later`, which is no attempt: known to all replicas and after a restart.

The server only counts deliveries. A message that is given back now and then is counted here in memory; one that was
delivered so often that its attempts might be over, in a bucket too.
"""

from __future__ import annotations

from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError, WrongRevision
from regrow_protocol.subjects import token

from .logs import get_logger

BUCKET = "regrow_commands"
KEEP = 7 * 86_400.0
REMEMBERED = 100_000
CONFLICTS = 20


class Forgiven:
    """Of one consumer.

    Args:
        bus: connected.
        consumer: its name.
        attempts: that a message has.
    """

    def __init__(self, bus: Bus, consumer: str, attempts: int) -> None:
        self._kv = bus.kv(BUCKET)
        self._prefix = f"later.{token(consumer)}."
        self._few = attempts // 2
        self._own: dict[int, int] = {}
        self._log = get_logger("consumer", consumer=consumer)

    async def attempt(self, seq: int, deliveries: int) -> int:
        """Which attempt a delivery is, from 1.

        Raises:
            Unreachable: it cannot be told now.
        """
        own = self._own.get(seq, 0)
        if deliveries <= self._few:
            return deliveries - own
        found = await self._kv.get(f"{self._prefix}{seq}")
        return deliveries - own - (int(found[0]) if found else 0)

    async def forgive(self, seq: int, deliveries: int) -> None:
        """This delivery was no attempt."""
        own = self._own[seq] = self._own.get(seq, 0) + 1
        if deliveries > self._few:
            try:
                await self._add(seq, own)
            except RegrowError as error:  # it stays in memory, and is written the next time
                self._log.warning("not noted that a message was given back", seq=seq, reason=str(error))
            else:
                self._own.pop(seq, None)
        if len(self._own) > REMEMBERED:  # others have handled the oldest
            del self._own[next(iter(self._own))]

    async def _add(self, seq: int, number: int) -> None:
        key = f"{self._prefix}{seq}"
        for _ in range(CONFLICTS):
            found = await self._kv.get(key)
            try:
                if found is None:
                    await self._kv.create(key, b"%d" % number, ttl=KEEP)
                else:
                    await self._kv.update(key, b"%d" % (int(found[0]) + number), found[1], ttl=KEEP)
            except WrongRevision:
                continue
            return
        raise WrongRevision(f"{key} was changed by others {CONFLICTS} times")

    def over(self, seq: int) -> None:
        """The message is handled, or given up."""
        self._own.pop(seq, None)
