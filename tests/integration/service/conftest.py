"""Fixtures for consumers under test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from regrow_protocol.bus import Bus, Received
from regrow_protocol.ids import new_id
from service_commands import Commands, Handle


@pytest_asyncio.fixture
async def commands(bus: Bus) -> AsyncIterator[Commands]:
    """Commands to a service of this test's own; consumers are stopped at its end."""
    async with AsyncExitStack() as stack:
        yield Commands(bus, new_id("service"), stack)


@pytest.fixture
def noted() -> tuple[list[Any], Handle]:
    """A list, and a handler that appends to it what it gets."""
    seen: list[Any] = []

    async def note(body: Any, message: Received) -> None:
        seen.append(body)

    return seen, note
