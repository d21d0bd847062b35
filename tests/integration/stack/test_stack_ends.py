"""A stack that a program started stops by itself when nobody needs it, and not before."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from regrow_cli.children import ChildSpec
from regrow_cli.data_dir import DataDir
from regrow_cli.os_process import is_alive
from regrow_cli.stack import ensure_stack, last_wanted, stack_status, stop_if_unused
from regrow_protocol.bus import Bus

from .conftest import Ensure, log_lines, servers

if TYPE_CHECKING:
    from conftest import Until

IDLE = 4.0
"""Seconds; longer than a program needs from its answer to its connection on a machine that is busy."""


@pytest.fixture(autouse=True)
def idle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon."""
    monkeypatch.setenv("REGROW_STACK_IDLE", str(IDLE))


async def test_idle(folder: Path, place: DataDir, ensure: Ensure, service: ChildSpec, until: Until) -> None:
    """When the last program has left it stops; its own services do not count."""
    info = await ensure(service)
    bus = await Bus.connect(info.url, name="program")
    await until((folder / "service_url").exists, "its service")
    began = asyncio.get_running_loop().time()
    await until(lambda: asyncio.get_running_loop().time() - began > 1.5 * IDLE)
    assert stack_status(folder).state == "running", "a program is connected"
    await bus.close()
    await until(lambda: not is_alive(info.process), "its end")
    assert servers(folder) == []
    assert not place.info.exists()
    (line,) = log_lines(place, "stack stops")
    assert "nobody" in str(line["why"])


async def test_asking_keeps_it(folder: Path, ensure: Ensure, until: Until) -> None:
    """Whoever has asked has the whole time to connect, however often that happens."""
    info = await ensure()
    for _ in range(3):
        began = asyncio.get_running_loop().time()
        await until(lambda began=began: asyncio.get_running_loop().time() - began > IDLE / 2)
        assert await ensure() == info
    async with await Bus.connect(info.url, name="program"):
        assert stack_status(folder).state == "running"


async def test_kept(folder: Path, ensure: Ensure, until: Until) -> None:
    """One that is kept stays, also when it was kept only later, and when others ask meanwhile."""
    info = await ensure()
    assert await ensure(keep=True) == info
    assert await ensure() == info, "asking without `keep` does not take it back"
    began = asyncio.get_running_loop().time()
    await until(lambda: asyncio.get_running_loop().time() - began > 1.5 * IDLE)
    assert stack_status(folder).state == "running"
    assert stack_status(folder).kept
    assert not await asyncio.to_thread(stop_if_unused, folder, last_wanted(folder))
    assert is_alive(info.process)


async def test_stop_if_unused(folder: Path, ensure: Ensure, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped at once only if nobody is connected and nobody has asked meanwhile."""
    monkeypatch.setenv("REGROW_STACK_IDLE", "60")
    info = await ensure()
    mark = last_wanted(folder)
    bus = await Bus.connect(info.url, name="program")
    assert not await asyncio.to_thread(stop_if_unused, folder, mark), "a program is connected"
    await bus.close()
    await ensure()
    assert not await asyncio.to_thread(stop_if_unused, folder, mark), "somebody has asked"
    assert await asyncio.to_thread(stop_if_unused, folder, last_wanted(folder), left="program")
    assert stack_status(folder).state == "stopped"


async def test_one_that_leaves_is_replaced(folder: Path, ensure: Ensure, until: Until) -> None:
    """Asking at the moment when it goes gives a stack that stays for its time."""
    for _ in range(2):
        info = await ensure()
        await until(lambda: stack_status(folder).info is None, "its leaving")
        again = await asyncio.to_thread(ensure_stack, folder, services=[])
        assert again.process != info.process
        async with await Bus.connect(again.url, name="program"):
            assert len(servers(folder)) == 1
