"""The stack's machine-manager, and machines that are older than the stack: nothing of them is lost, nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from regrow import LocalImage, Machine, machine
from regrow.client import Client
from regrow.outside import acting
from regrow_cli.data_dir import DataDir, StackInfo
from regrow_cli.machines import record_of
from regrow_cli.os_process import is_alive
from regrow_cli.stack import ensure_stack, stack_status, stop_stack
from regrow_protocol import messages as m
from regrow_protocol import streams
from regrow_protocol.bus import Bus
from regrow_protocol.machines import MachineRecord
from regrow_protocol.messages import ProcessRecord, Ref

from .conftest import child, servers

if TYPE_CHECKING:
    from conftest import Until

APP = "stacked"
OWNER = "p_" + "1" * 26


async def _start(folder: Path) -> StackInfo:
    return await asyncio.to_thread(ensure_stack, folder, timeout=30.0)


@asynccontextmanager
async def _machines(info: StackInfo) -> AsyncIterator[Bus]:
    """Connected, with a scope for machines."""
    async with await Bus.connect(info.url, name="test") as bus:
        await streams.ensure(bus)
        async with acting(Client(bus), APP):
            yield bus


async def _record(bus: Bus, box: Machine) -> MachineRecord:
    record = await record_of(bus, box.id)
    assert record is not None
    return record


async def _ticking(box: Machine) -> str:
    """Start a command that goes on until `gate` is there; the path of what it writes then."""
    line = "(until [ -e gate ]; do sleep 0.05; done; echo done > proof) > /dev/null 2>&1 & pwd"
    return (await box.exec(line)).stdout.strip()


async def test_the_manager_is_kept_running(folder: Path, place: DataDir, until: Until) -> None:
    """It is a child like the supervisor, and keeps what is its own in the data folder; killed, it is started again."""
    info = await _start(folder)
    async with _machines(info) as bus:
        box = await machine(LocalImage(), keep=True)
        assert (await box.exec("pwd")).stdout.startswith(str(place.machines))
        first = child(place, "machine-manager")
        os.kill(first.process.pid, signal.SIGKILL)
        await until(lambda: (r := child(place, "machine-manager")) and r.restarts == 1, "the restart")
        assert (await box.exec("echo again")).stdout == "again\n"
        assert (await _record(bus, box)).state == "ready"
        await box.stop()


async def test_machines_outlive_an_idle_stack(folder: Path, until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine does not keep the stack up. It goes on with what runs on it, and the next stack has it."""
    monkeypatch.setenv("REGROW_STACK_IDLE", "4")
    info = await _start(folder)
    async with _machines(info):
        box = await machine(LocalImage(), keep=True, name="kept")
        where = Path(await _ticking(box))
    await until(lambda: not is_alive(info.process), "its end")
    assert servers(folder) == []
    (where / "gate").touch()
    await until((where / "proof").exists, "the command's end")
    monkeypatch.setenv("REGROW_STACK_IDLE", "60")
    async with _machines(await _start(folder)) as bus:
        assert (await box.exec("cat proof")).stdout == "done\n"
        assert (await _record(bus, box)).state == "ready"
        await box.stop()
    assert not where.exists()


async def test_machines_outlive_the_kill_of_everything(folder: Path, place: DataDir, until: Until) -> None:
    """After kill -9 of the stack and of all that it ran at once, the next stack has the machine."""
    info = await _start(folder)
    async with _machines(info):
        box = await machine(LocalImage(), keep=True)
        where = Path(await _ticking(box))
    victims = [
        info.process,
        *(
            child(place, name).process
            for name in ("nats", "supervisor", "machine-manager", "registry", "agent-gateway")
        ),
    ]
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
    await until(lambda: not any(map(is_alive, victims)), "their end")
    assert stack_status(folder).state == "stopped"
    (where / "gate").touch()
    async with _machines(await _start(folder)) as bus:
        await until((where / "proof").exists, "the command's end")
        assert (await box.exec("cat proof")).stdout == "done\n"
        assert (await _record(bus, box)).state == "ready"
        await box.stop()


async def test_an_owner_that_ended_meanwhile(folder: Path, until: Until) -> None:
    """A machine whose owner ended while no machine-manager ran is stopped by the next stack, with its folder."""
    async with _machines(await _start(folder)):
        box = await machine(LocalImage(), keep=True)
        where = Path((await box.exec("pwd")).stdout.strip())
    await asyncio.to_thread(stop_stack, folder)
    info = await asyncio.to_thread(ensure_stack, folder, services=[])
    async with await Bus.connect(info.url, name="test") as bus:
        owned = replace(await _record(bus, box), owner=Ref(OWNER, 0, 1), keep=False)
        await bus.kv("regrow_machines").put(f"machine.{box.id}", m.encode(owned))
        ended = ProcessRecord(pid=OWNER, app=APP, type="t", build="b", status="done", seq=1)
        await bus.kv("regrow_processes").put(OWNER, m.encode(ended))
    await asyncio.to_thread(stop_stack, folder)
    assert where.exists()
    states: list[str] = []
    async with await Bus.connect((await _start(folder)).url, name="test") as bus:
        key = f"machine.{box.id}"
        watcher = bus.kv("regrow_machines").watch(key, lambda entry: states.append(_told(entry.value)))
        await until(lambda: "stopped owner done" in states, "its end", 30.0)
        await watcher.stop()
    assert not where.exists()


def _told(value: bytes) -> str:
    record = m.decode(value, MachineRecord)
    return f"{record.state} {record.reason}"
