"""Machines from bodies: real processes, a real machine-manager, hosts and managers that are killed in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from regrow import (
    ExecutionFailed,
    LocalImage,
    Machine,
    agent_process,
    emit,
    expose,
    from_snapshot,
    machine,
    spawn,
    wait,
)
from regrow.machines import ExecTimeout, MachineLost, NoCapacity
from regrow.testing import Runtime
from regrow.testing.managers import Manager
from regrow_protocol.machines import MachineRecord
from regrow_protocol.messages import decode

from .looking import until

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def manager(nats_url: str) -> Iterator[Manager]:
    """A manager on the server of this worker."""
    made = Manager(nats_url, options=["--max-machines", "8"])
    try:
        made.start()
        yield made
    finally:
        made.close()


async def states(rt: Runtime) -> dict[str, str]:
    """State of each machine of the app that has not been forgotten."""
    records = [decode(entry.value, MachineRecord) async for entry in rt.bus.kv("regrow_machines").items("machine.*")]
    return {record.id: record.state for record in records if record.app == rt.app}


async def all_stopped(rt: Runtime) -> bool:
    """Of a machine that could not be made the record says `failed`."""
    return set((await states(rt)).values()) <= {"stopped", "failed"}


@agent_process
async def builder(folder: str) -> dict[str, Any]:
    box = await machine(LocalImage(env={"WHO": "me"}))
    await box.write_file("src/main", "#!/bin/sh\necho built by $WHO; exit 3\n", mode=0o755)
    result = await box.exec("./main", cwd="src", timeout=30)
    lines = [str(line) async for line in box.exec_stream("seq 1 2000")]
    await box.get("src", folder)
    port = await box.expose_port(8000)
    return {
        "code": result.exit_code,
        "out": result.stdout,
        "lines": [len(lines), lines[0], lines[-1]],
        "port": port.port,
        "content": (await box.read_file("src/main")).decode(),
    }


async def test_a_body_uses_a_machine(rt: Runtime, manager: Manager, tmp_path: Path) -> None:
    """Commands, files and streams give what they would on a terminal; at the end the machine is stopped."""
    found = await rt.run(builder, str(tmp_path / "out"))
    assert (found["code"], found["out"], found["port"]) == (3, "built by me\n", 8000)
    assert found["lines"] == [2000, "1", "2000"]
    assert (tmp_path / "out/main").read_text() == found["content"]
    await until(lambda: all_stopped(rt), "the machine to be stopped")


@agent_process
async def patient(command: str, timeout: float | None = None) -> dict[str, Any]:
    box = await machine(LocalImage())
    emit("ready", box)
    result = await box.exec(command, timeout=timeout)
    count = (await box.read_file("count")).decode()
    return {"code": result.exit_code, "out": result.stdout, "count": count}


SLOW = "echo ran >> count; echo begin; while ! test -e {go}; do sleep 0.05; done; echo end; exit 5"


async def box_of(process: Any) -> dict[str, Any]:
    """The machine that a process announced."""
    async for event in process.events():
        if event.type == "ready":
            return event.data
    raise AssertionError("it has ended")


@pytest.mark.parametrize("who", ["host", "manager", "both"])
async def test_a_command_survives_kills(rt: Runtime, manager: Manager, tmp_path: Path, who: str) -> None:
    """Killed in the middle: the command goes on, ran once, and gives its real exit code and whole output."""
    go = tmp_path / "go"
    process = await rt.start(patient, SLOW.format(go=go))
    box = await box_of(process)

    async def begun() -> bool:
        return any(box["id"] in str(found) for found in manager.folder.rglob("count"))

    await until(begun, "the command to run")
    if who in ("manager", "both"):
        manager.kill()
    if who in ("host", "both"):
        await rt.crash_host()
    if who in ("manager", "both"):
        await manager.start_async()
    if who in ("host", "both"):
        await rt.start_host()
    go.touch()
    assert await process.result(30) == {"code": 5, "out": "begin\nend\n", "count": "ran\n"}


@agent_process(resume="restart")
async def restarting(go: str) -> dict[str, Any]:
    box = await machine(LocalImage())
    lines: list[str] = []
    stream = box.exec_stream(SLOW.format(go=go))
    async for line in stream:
        lines.append(str(line))
        if len(lines) == 1:
            Path(go).touch()
    try:
        await box.exec("sleep 1000", timeout=0.3)
    except ExecTimeout:
        lines.append("timeout")
    try:
        async with asyncio.timeout(0.3):
            await box.exec("echo $$ > pid; sleep 1000")
    except TimeoutError:
        lines.append("cancelled")
    return {"lines": lines, "code": (await stream.result()).exit_code}


async def test_a_restart_body_uses_a_machine(rt: Runtime, manager: Manager, tmp_path: Path) -> None:
    """The same calls work in an ordinary body."""
    found = await rt.run(restarting, str(tmp_path / "go"))
    assert found == {"lines": ["begin", "end", "timeout", "cancelled"], "code": 5}
    await until(lambda: all_stopped(rt), "the machine to be stopped")


@agent_process(snapshot_on_failure=True)
async def fragile() -> None:
    box = await machine()
    await box.exec("echo x >> state")
    if (await box.read_file("state")).decode().count("x") < 2:
        raise RuntimeError("broken")


@agent_process
async def guardian() -> str:
    try:
        await spawn(fragile, machine=LocalImage())
    except ExecutionFailed as error:
        (kept,) = error.snapshots.values()
        await spawn(fragile, machine=from_snapshot(kept))
        return error.reason
    return "?"


async def test_a_failure_keeps_its_machines_state(rt: Runtime, manager: Manager) -> None:
    """The next try continues on the machine of the one that failed."""
    assert await rt.run(guardian) == "broken"
    await until(lambda: all_stopped(rt), "the machines to be stopped")


@agent_process
async def worker(box: Machine) -> str:
    @expose
    async def look() -> str:
        try:
            return (await box.exec("cat note")).stdout
        except MachineLost:
            return "lost"

    return await wait()


@agent_process
async def lender(handle: str) -> str:
    box = await machine(LocalImage())
    await box.write_file("note", "from the lender")
    child = spawn(worker, box)
    await box.give(handle)
    return await child.call("look", wait=True)


@agent_process
async def keeper() -> str:
    return await wait()


async def test_a_machine_given_away_outlives_the_giver(rt: Runtime, manager: Manager) -> None:
    """It is stopped with whom it was given to."""
    heir = await rt.start(keeper)
    assert await rt.run(lender, heir.pid) == "from the lender"
    assert list((await states(rt)).values()) == ["ready"]
    await heir.cancel()
    await until(lambda: all_stopped(rt), "the machine to be stopped")


@agent_process
async def crowd(number: int, wait: float) -> int:
    boxes = await asyncio.gather(*(machine(LocalImage(), wait=wait) for _ in range(number)))
    return len(boxes)


async def test_no_room(rt: Runtime, manager: Manager) -> None:
    """A node with eight places has no ninth: refused at once; whoever waits gets the room that others leave."""
    with pytest.raises(ExecutionFailed) as caught:
        await rt.run(crowd, 9, 0)
    assert caught.value.error == NoCapacity.__name__
    await until(lambda: all_stopped(rt), "the machines to be stopped")
    assert await rt.run(crowd, 8, 60) == 8
