"""`limited`: work under a named limit, which operators set (`regrow limits set`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from regrow_protocol import limits as wire
from regrow_protocol import subjects
from regrow_protocol.errors import RegrowError

from . import scope
from .admission import acquire_for


class AdmissionFailed(RegrowError):
    """A permit could not be had."""

    code = "admission-failed"


@asynccontextmanager
async def limited(name: str, *, priority: int = 0) -> AsyncGenerator[None]:
    """Hold a permit of the limit `name` within the block; wait for one first. Without such a limit there is no wait.

    Args:
        name: of the limit; `regrow limits set NAME --concurrency 8 --rate 100/1m` sets it, at any time.
        priority: who has the higher one comes first; a minute of waiting counts as one.
    """
    subjects.token(name)
    here = scope.current()
    subject = wire.admission_subject(here.app)
    acquire = acquire_for(here.start, here.pid, here.tags, name, priority)
    asked = here.command("admission.acquire", subject, acquire, None, AdmissionFailed, compared=acquire.compared())
    try:
        await asyncio.shield(asked.future)
        yield
    finally:
        here.tell("admission.release", subject, wire.Release(name, asked.id))
