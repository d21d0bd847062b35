"""The runtime that the tests use: live, and with every process folded anew before each of its inputs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import regrow.testing
from regrow.testing import Runtime


@pytest.fixture(params=[False, True], ids=["live", "replayed"])
def force_replay(request: pytest.FixtureRequest) -> bool:
    """Whether every process is folded anew before each input."""
    return bool(request.param)


@pytest_asyncio.fixture
async def rt(nats_url: str, force_replay: bool) -> AsyncIterator[Runtime]:
    """A runtime with skipped time on the server of this worker."""
    async with regrow.testing.runtime(url=nats_url, force_replay=force_replay) as runtime:
        yield runtime
