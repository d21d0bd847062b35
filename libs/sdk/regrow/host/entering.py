"""How a host enters a fold: from a plain callback of the loop, and muted where it only repeats what was done."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import sys
from collections.abc import Callable, Generator
from typing import Any


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


_NOWHERE = _Nowhere()


@contextlib.contextmanager
def muted() -> Generator[None]:
    """A replayed body prints and logs nothing: it did when it ran first."""
    stdout, manager = sys.stdout, logging.root.manager
    disabled = manager.disable
    sys.stdout, manager.disable = _NOWHERE, logging.CRITICAL
    try:
        yield
    finally:
        sys.stdout, manager.disable = stdout, disabled


async def outside_tasks(function: Callable[..., Any], *args: Any) -> Any:
    """Call `function` from a plain callback of the loop: a fold runs tasks of its own, and no task may do that."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def call() -> None:
        if future.done():
            return
        try:
            future.set_result(function(*args))
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            future.set_exception(error)

    loop.call_soon(call)
    return await future
