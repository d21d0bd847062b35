"""What a command on a machine writes, on our own descriptors as it comes.

A descriptor may be a pipe whose reader is slow, so a thread writes, and the event loop goes on. What comes faster than
it is read waits in memory.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading

DESCRIPTORS = {"stdout": 1, "stderr": 2}


class Output:
    """A `Feed` of an exec; call `finish` when nothing more comes.

    Attributes:
        broken: set to the error when nobody reads any more.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.broken: asyncio.Future[OSError] = loop.create_future()
        self._loop = loop
        self._written: asyncio.Future[None] = loop.create_future()
        self._taken: dict[str, int] = {}
        self._queue: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        # A daemon: one that is stuck with a reader that does not read must not keep us from ending.
        threading.Thread(target=self._write, name="output", daemon=True).start()

    def push(self, channel: str, offset: int, data: bytes) -> None:
        """The piece of `channel` that begins at byte `offset`; what is known of it already is dropped."""
        taken = self._taken.get(channel, 0)
        if offset > taken or offset + len(data) <= taken:
            return
        self._taken[channel] = offset + len(data)
        self._queue.put((DESCRIPTORS[channel], data[taken - offset :]))

    async def finish(self) -> None:
        """Wait until all is written, or cannot be."""
        self._queue.put(None)
        await self._written

    def _write(self) -> None:
        error: OSError | None = None
        while (item := self._queue.get()) is not None:
            descriptor, data = item
            while data and error is None:
                try:
                    data = data[os.write(descriptor, data) :]
                except OSError as problem:
                    error = problem
                    self._tell(self.broken, problem)
        self._tell(self._written, None)

    def _tell(self, future: asyncio.Future[OSError] | asyncio.Future[None], value: object) -> None:
        def tell() -> None:
            if not future.done():
                future.set_result(value)  # pyright: ignore[reportArgumentType] - each future gets its own

        try:
            self._loop.call_soon_threadsafe(tell)
        except RuntimeError:  # the loop has ended: nobody waits
            return
