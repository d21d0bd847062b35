"""A runtime with one host in this interpreter; time passes as it does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
import regrow.testing
from regrow.host.host import HostOptions
from regrow.testing import Runtime


@pytest_asyncio.fixture
async def rt(nats_url: str) -> AsyncIterator[Runtime]:
    options = HostOptions(park_after=0.3, schedule_after=1.0, turn_limit=1.0, warn_turn=0.5)
    async with regrow.testing.runtime(url=nats_url, skip_time=False, options=options) as runtime:
        yield runtime
