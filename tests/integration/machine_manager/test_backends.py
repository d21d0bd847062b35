"""Backends of other packages, that are slow, away or broken: the manager copes, and tells who asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from machinekit import Caller, Fleet, Refused, eventually
from regrow_machine_manager import creation, registry
from regrow_protocol.images import encode_image
from regrow_protocol.machines import Create, Expose, MachineFork, MachineRef, Read, Snapshot
from regrow_protocol.messages import Command

PACKAGES = Path(__file__).parent / "packages"
BOTH = ("--backends", "slowbox,roaming")


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that says what the backends do; their package is installed, for programs too."""
    monkeypatch.syspath_prepend(str(PACKAGES))
    monkeypatch.setenv("PYTHONPATH", str(PACKAGES), prepend=":")
    folder = tmp_path / "control"
    folder.mkdir()
    return folder


def image(control: Path, name: str = "SlowImage", **options: Any) -> Any:
    """One of the package's."""
    __import__("slowbox")
    return getattr(sys.modules["slowbox"], name)(control=str(control), **options)


def spawned(control: Path) -> list[list[str]]:
    """[machine, node] of each spawn."""
    file = control / "spawned"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


async def ask(caller: Caller, control: Path, name: str = "SlowImage", memory: int = 0, **options: Any) -> Command:
    """Send a creation without waiting for its answer."""
    create = Create(image=encode_image(image(control, name, memory=memory)), **options)
    return await caller.send(caller.command("create", create))


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_manager_killed_while_it_makes_a_machine(fleet: Fleet, control: Path, replicas: int) -> None:
    """Another one of its node, or itself started again, goes on with the same machine: one, answered once."""
    caller = await fleet.caller(process=True)
    (control / "hold").touch()
    programs = [await fleet.start("n1", *BOTH) for _ in range(replicas)]
    command = await ask(caller, control)
    await eventually(lambda: spawned(control), "its spawn has begun")
    for program in programs:
        program.process.kill()  # all before one of them can take it over
    for program in programs:
        await program.kill()
    begun = len(spawned(control))
    await fleet.start("n1", *BOTH)
    await eventually(lambda: len(spawned(control)) > begun, "it is taken over")
    (control / "hold").unlink()
    ref = await caller.answer(command, MachineRef)
    assert all(each == [ref.id, "n1"] for each in spawned(control))
    assert [record.id for record in await fleet.live()] == [ref.id]
    assert (await caller.exec(ref, "echo here")).stdout == b"here\n"
    assert len(caller.answers[command.id]) == 1


async def test_an_owner_that_ends_while_its_machine_is_made(fleet: Fleet, control: Path) -> None:
    """It is stopped as soon as it was made, although the manager was killed in between; its creation is answered."""
    caller = await fleet.caller(process=True)
    (control / "hold").touch()
    program = await fleet.start("n1", *BOTH)
    command = await ask(caller, control)
    await eventually(lambda: spawned(control), "its spawn has begun")
    await fleet.announce(caller, "cancelled")

    async def stopping() -> bool:
        return [record.state for record in await fleet.records()] == ["stopping"]

    await eventually(stopping, "it is to be stopped")
    await program.kill()
    (control / "hold").unlink()
    (control / "machines" / spawned(control)[0][0]).mkdir(parents=True)  # the spawn had come that far
    await fleet.start("n1", *BOTH)
    with pytest.raises(Refused, match="machine-lost"):
        await caller.answer(command, MachineRef)

    async def nothing() -> bool:
        return await fleet.live() == [] and (await fleet.node()).claimed == {}

    await eventually(nothing, "all is stopped")


async def test_a_node_that_goes_while_it_makes_a_machine(
    fleet: Fleet, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while another node makes it."""
    monkeypatch.setattr(creation, "NODE_GONE", 1.0)
    monkeypatch.setattr(creation, "LOOK", 0.2)
    caller = await fleet.caller()
    (control / "hold").touch()
    program = await fleet.start("first", *BOTH)
    command = await ask(caller, control)
    await eventually(lambda: spawned(control), "its spawn has begun")
    async with fleet.inside("second", *BOTH):
        await program.kill()
        (control / "hold").unlink()
        ref = await caller.answer(command, MachineRef)
        assert ref.node == "second"
        assert (await fleet.node("first")).claimed == {}
        assert (await fleet.node("second")).claimed.keys() == {ref.id}


async def test_what_fails_for_good_is_answered_and_gives_its_room_back(fleet: Fleet, control: Path) -> None:
    """With the backend's error, or the class of what it raised; the next creation has the room."""
    caller = await fleet.caller()
    async with fleet.inside("n1", "--max-machines", "1", *BOTH):
        for flag, name, code in (
            ("broken", "MachineFailed", "machine-failed"),
            ("bug", "ZeroDivisionError", "exception"),
        ):
            (control / flag).touch()
            with pytest.raises(Refused, match="slowbox") as error:
                await caller.answer(await ask(caller, control), MachineRef)
            assert (error.value.failure.error, error.value.code) == (name, code)
            (control / flag).unlink()
        ref = await caller.answer(await ask(caller, control), MachineRef)
        with pytest.raises(Refused, match="bug") as error:
            await caller.ask(ref, "read", Read("bug"), bytes)
        assert error.value.failure.error == "ZeroDivisionError"
        for name, args in (("snapshot", Snapshot()), ("fork", MachineFork()), ("expose", Expose(80))):
            with pytest.raises(Refused, match="unsupported"):
                await caller.ask(ref, name, args)


async def test_an_unavailable_backend_is_waited_for_but_not_for_ever(
    fleet: Fleet, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Creations and commands go on when it is back; after the patience they fail with that."""
    caller = await fleet.caller()
    async with fleet.inside("n1", *BOTH):
        ref = await caller.answer(await ask(caller, control), MachineRef)
        (control / "away").touch()
        create = await ask(caller, control)
        await eventually(lambda: len(spawned(control)) >= 3, "it was tried again")
        (control / "away").unlink()
        await caller.answer(create, MachineRef)
    monkeypatch.setenv("REGROW_MACHINE_PATIENCE", "1")
    async with fleet.inside("n1", *BOTH):
        assert (await caller.exec(ref, "echo here")).stdout == b"here\n"
        (control / "away").touch()
        with pytest.raises(Refused, match="backend-unavailable") as error:
            await caller.exec(ref, "true")
        assert error.value.failure.retryable
        with pytest.raises(Refused, match="backend-unavailable"):
            await caller.answer(await ask(caller, control), MachineRef)


async def test_a_backend_that_comes_later_is_used_then(
    fleet: Fleet, control: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left out while it cannot be opened; a creation that waits is made when it can."""
    monkeypatch.setattr(registry, "AGAIN", 0.2)
    away = control / "away-at-start"
    away.touch()
    monkeypatch.setenv("SLOWBOX_AWAY", str(away))
    caller = await fleet.caller()
    async with fleet.inside("n1", "--backends", "local,slowbox"):
        command = await ask(caller, control, wait=20.0)
        with pytest.raises(Refused, match="unknown-backend"):
            await caller.answer(await ask(caller, control), MachineRef)
        away.unlink()
        await caller.answer(command, MachineRef)


async def test_memory_is_promised_once(fleet: Fleet, control: Path) -> None:
    """Machines whose memory would be more than the node's are refused."""
    caller = await fleet.caller()
    async with fleet.inside("n1", "--memory", "1g", *BOTH):
        await caller.create(image(control, memory=600 << 20))
        with pytest.raises(Refused, match="promised 600 of 1024 MiB"):
            await caller.create(image(control, memory=600 << 20))
        await caller.create(image(control, memory=400 << 20))


async def test_machines_that_are_reached_from_anywhere_end_without_their_node(fleet: Fleet, control: Path) -> None:
    """Its node has no manager any more: when its owner ends, another node's manager stops it."""
    caller = await fleet.caller(process=True)
    program = await fleet.start("first", *BOTH)
    ref = await caller.answer(await ask(caller, control, "RoamingImage"), MachineRef)
    await program.kill()
    async with fleet.inside("second", *BOTH):
        assert (control / "machines" / ref.id).is_dir()
        await fleet.announce(caller, "done")
        await eventually(lambda: fleet.ended(ref), "it is stopped")
        assert not (control / "machines" / ref.id).exists()
        assert (await fleet.node("first")).claimed == {}


async def test_an_image_that_breaks_its_backend_is_refused(fleet: Fleet, control: Path) -> None:
    """Whoever meets it: the manager that takes the creation, or one that has the backend and comes later."""
    caller = await fleet.caller(process=True)
    await fleet.start("n2")
    early = await ask(caller, control, memory=-1, wait=30.0)
    await eventually(fleet.records, "it waits")
    program = await fleet.start("n1", *BOTH)
    with pytest.raises(Refused, match=r"invalid-image: .*slowbox has a bug"):
        await caller.answer(early, MachineRef)
    late = await ask(caller, control, memory=-1, wait=30.0)
    with pytest.raises(Refused, match=r"invalid-image: .*slowbox has a bug"):
        await caller.answer(late, MachineRef)
    assert program.process.returncode is None
