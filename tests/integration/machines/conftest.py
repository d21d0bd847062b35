"""Machines of the local backend, which is the quickest to have; other backends' tests bring modules of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio
from regrow_machine_manager.backend import Data, Node
from regrow_machine_manager.backends.local import LocalBackend
from regrow_machine_manager.commands import Commands
from regrow_protocol.ids import new_id
from regrow_protocol.images import LocalImage


async def until(condition: Callable[[], object], what: str, seconds: float = 15.0) -> None:
    """Wait for a condition while the loop goes on; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {seconds} s"
        await asyncio.sleep(0.005)


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
