"""Memory for large answers: given out in the order in which it is asked for, and taken back when they are sent."""

from __future__ import annotations

import asyncio
from collections import deque

COPIES = 4
"""Bytes that a byte of output takes until its answer is sent: itself, in base64, in JSON, and in the messages of it."""


class Budget:
    """So many bytes for all who ask.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait until `size` bytes are free, and nobody who came before waits, and take them. At most `self.size`."""
        if not self._queue and size <= self.free:
            self.free -= size
            return
        entry = (size, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        try:
            await entry[1]
        except asyncio.CancelledError:
            granted = not entry[1].cancelled()
            if entry in self._queue:
                self._queue.remove(entry)
            self.give_back(size if granted else 0)  # 0: the next may fit now
            raise

    def give_back(self, size: int) -> None:
        """Let others have them."""
        self.free += size
        while self._queue and self._queue[0][0] <= self.free:
            wanted, turn = self._queue.popleft()
            if not turn.done():  # else its caller was cancelled, and is about to see that
                self.free -= wanted
                turn.set_result(None)


class Share:
    """What one answer holds of a budget, until the end of a `with`."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    async def take(self, size: int) -> None:
        """Hold `size` bytes, or the whole budget when that is less; instead of what was held before."""
        self._let_go()
        size = min(size, self._budget.size)
        await self._budget.take(size)
        self._held = size

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()

    def _let_go(self) -> None:
        size, self._held = self._held, 0
        self._budget.give_back(size)
