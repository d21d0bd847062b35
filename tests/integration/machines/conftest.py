"""Machines of the local backend, which is the quickest to have; other backends' tests bring modules of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from regrow_machine_manager.backend import Data, Node
from regrow_machine_manager.backends.local import LocalBackend
from regrow_machine_manager.commands import Commands
from regrow_protocol.ids import new_id
from regrow_protocol.images import LocalImage


@pytest_asyncio.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalBackend]:
    """A local backend; its machines are stopped at the end of the test."""
    backend = LocalBackend(Node("here", tmp_path / "node"))
    await backend.open()
    yield backend
    for data in (await backend.made()).values():
        await backend.stop(data)
    await backend.close()


@pytest_asyncio.fixture
async def machine(local: LocalBackend) -> Data:
    """A machine with a new folder."""
    return (await local.spawn(new_id("m"), LocalImage(env={"FROM_IMAGE": "yes"}), load={})).data


@pytest_asyncio.fixture
async def commands(local: LocalBackend) -> AsyncIterator[Commands]:
    made = Commands(local)
    yield made
    await made.close()
