"""Where harnesses are launched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import pytest_asyncio
from launchkit import Ground
from regrow_machine_manager.backend import Node
from regrow_machine_manager.backends.local import LocalBackend
from regrow_machine_manager.commands import Commands
from regrow_protocol.ids import new_id
from regrow_protocol.images import LocalImage


@pytest_asyncio.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    """A machine; it is stopped at the end of the test."""
    if which("tmux") is None:
        pytest.skip("tmux is not installed (`make system-deps`)")
    backend = LocalBackend(Node("here", tmp_path / "node"))
    await backend.open()
    data: Any = (await backend.spawn(new_id("m"), LocalImage(), load={})).data
    made = Ground(backend, Commands(backend), data)
    yield made
    await made.commands.close()
    await backend.stop(data)
    await made.gone()
    await backend.close()
