"""Records of a bucket that a service keeps in memory, and who waits for one to change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec import Struct

R = TypeVar("R", bound=Struct)


class Kept(NamedTuple, Generic[R]):
    """A record and its revision."""

    record: R
    revision: int


class Changes:
    """Who is told when the record of an id has changed."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._listeners: list[Callable[[str], None]] = []

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the id of each that has changed."""
        self._listeners.append(listener)

    async def wait(self, id_: str, met: Callable[[], Any], timeout: float | None = None) -> bool:
        """Wait until `met()` is true, asked whenever the record changes; false after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while not met():
            future: asyncio.Future[None] = loop.create_future()
            waiting = self._waiting.setdefault(id_, set())
            waiting.add(future)
            try:
                async with asyncio.timeout_at(deadline):
                    await future
            except TimeoutError:
                return bool(met())
            finally:
                waiting.discard(future)
                if not waiting and self._waiting.get(id_) is waiting:
                    del self._waiting[id_]
        return True

    def wake(self) -> None:
        """Have all who wait look again."""
        for id_ in list(self._waiting):
            self._wake(id_)

    def tell(self, id_: str) -> None:
        """Say that it has changed."""
        self._wake(id_)
        for listener in self._listeners:
            listener(id_)

    def _wake(self, id_: str) -> None:
        for future in self._waiting.pop(id_, ()):
            if not future.done():
                future.set_result(None)
