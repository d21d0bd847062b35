"""Calls of a backend that is unavailable at times: repeated for a while, with back-off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from regrow_service.logs import get_logger
from regrow_service.retry import Retry

from .backend import BackendUnavailable
from .context import Context
from .measures import RETRIES

T = TypeVar("T")

RETRY = Retry(first=0.2, longest=5.0)
LONG = 5.0
"""Seconds after which a call that failed had been working: the patience begins anew."""

_log = get_logger("backends")


async def patiently(here: Context, backend: str, call: Callable[[], Awaitable[T]]) -> T:
    """What `call` returns; made again while it raises BackendUnavailable.

    Raises:
        BackendUnavailable: for all of the manager's patience.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + here.settings.machine_patience
    attempt = 0
    while True:
        begun = loop.time()
        try:
            return await call()
        except BackendUnavailable as error:
            now = loop.time()
            if now - begun > LONG:
                until, attempt = now + here.settings.machine_patience, 0
            attempt += 1
            delay = RETRY.delay(attempt)
            if now + delay > until:
                raise
            here.metrics[RETRIES].labels(backend).inc()
            _log.info("backend unavailable", backend=backend, again_in=round(delay, 2), reason=str(error))
        await asyncio.sleep(delay)
