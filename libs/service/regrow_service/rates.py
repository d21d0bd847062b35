"""Limits on how often something may be done, counted over all replicas of a service.

The times of what was done in the last minute stand in one key of `regrow_limits`, changed by compare-and-set: whoever
counts, a limit of 30 a minute lets 30 pass in any minute, and no replica remembers anything.
"""

from __future__ import annotations

import math
import time

import msgspec
from regrow_protocol import messages
from regrow_protocol.bus import Bus
from regrow_protocol.errors import WrongRevision

BUCKET = "regrow_limits"
WINDOW = 60.0
CONFLICTS = 100


class Rates:
    """The counts in the bucket, over `bus`."""

    def __init__(self, bus: Bus) -> None:
        self._kv = bus.kv(BUCKET)

    async def take(self, key: str, per_minute: float) -> float:
        """Do it once more, if it may be done now.

        Args:
            key: of what is counted, such as `grant.g_…`.
            per_minute: how often it may be done; less than one stands for once in a longer time. 0: any number.

        Returns:
            0.0 where it may, and is counted; else the seconds until it may be tried again.

        Raises:
            WrongRevision: others were faster, time after time.
            Unreachable: NATS does not answer.
        """
        if per_minute <= 0:
            return 0.0
        most = max(1, math.floor(per_minute))
        window = WINDOW * most / per_minute
        for _ in range(CONFLICTS):
            now = time.time()
            found = await self._kv.get(key)
            times = [at for at in _read(found[0]) if at > now - window] if found else []
            if len(times) >= most:
                return max(times[-most] + window - now, 0.001)
            value = messages.encode([*times, now])
            try:
                if found is None:
                    await self._kv.create(key, value, ttl=window)
                else:
                    await self._kv.update(key, value, found[1], ttl=window)
            except WrongRevision:
                continue
            return 0.0
        raise WrongRevision(f"The count of {key} was changed by others {CONFLICTS} times")


def _read(value: bytes) -> list[float]:
    try:
        return sorted(messages.decode(value, list[float]))
    except msgspec.MsgspecError:
        return []
