"""Keeping starts of programs and the freezing of their container apart.

A container is paused while it is committed. A program that is just being started in it then freezes half-way, with
runc waiting for it and the engine waiting for runc before it thaws anything: such a container hangs for good. So
starting takes a shared lock, and freezing an exclusive one that waits for those starts and lets no new ones begin.

The locks are files of the backend's folder, since a node may have several managers; they end with their process.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from ..backend import BackendUnavailable

_TIMEOUT = 600.0
"""Seconds that the other side may take: a commit copies whole file systems."""


class Freezing:
    """The locks of a node's containers.

    Args:
        folder: where their files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @asynccontextmanager
    async def starting(self, container: str) -> AsyncGenerator[int]:
        """While a program is started; what is given can be closed early, by `started`."""
        with self._lock(f"{container}.run") as run:
            with self._lock(f"{container}.gate") as gate:  # held by who waits to freeze
                await _take(gate, fcntl.LOCK_SH, container)
                await _take(run, fcntl.LOCK_SH, container)
            yield run

    @staticmethod
    def started(lock: int) -> None:
        """The program runs: freezing it does no harm."""
        fcntl.flock(lock, fcntl.LOCK_UN)

    @asynccontextmanager
    async def freezing(self, container: str) -> AsyncGenerator[None]:
        """While the container may be frozen."""
        with self._lock(f"{container}.gate") as gate, self._lock(f"{container}.run") as run:
            await _take(gate, fcntl.LOCK_EX, container)
            await _take(run, fcntl.LOCK_EX, container)
            yield

    def forget(self, container: str) -> None:
        """The container is gone."""
        for name in ("gate", "run"):
            (self._folder / f"{container}.{name}").unlink(missing_ok=True)

    @contextmanager
    def _lock(self, name: str) -> Generator[int]:
        opened = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield opened
        finally:
            os.close(opened)


async def _take(lock: int, kind: int, container: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _TIMEOUT
    delay = 0.002
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if loop.time() > deadline:
                raise BackendUnavailable(
                    f"{container} is being snapshotted, or a program does not start in it", hint="try again"
                ) from None
        else:
            return
        await asyncio.sleep(delay)
        delay = min(delay * 1.5, 0.05)
