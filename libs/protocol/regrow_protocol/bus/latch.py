"""Something that happens once and can be awaited by many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any


class Latch(Awaitable[None]):
    """Awaitable any number of times; waiting for it can be cancelled without harm."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._error: BaseException | None = None

    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self, error: BaseException | None = None) -> None:
        if not self._event.is_set():
            self._error = error
            self._event.set()

    async def _wait(self) -> None:
        await self._event.wait()
        if self._error is not None:
            raise self._error

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()
