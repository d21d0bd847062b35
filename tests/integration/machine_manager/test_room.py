"""Capacity: counted exactly whoever races for it, waited for, and refused with the reason."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from machinekit import Caller, Fleet, Refused, eventually
from regrow_protocol.images import LocalImage, encode_image
from regrow_protocol.machines import Create, MachineRef
from regrow_protocol.messages import Command


async def ask(caller: Caller, **options: object) -> Command:
    """Send a creation without waiting for its answer."""
    return await caller.send(caller.command("create", Create(encode_image(LocalImage()), **options)))  # type: ignore[arg-type]


async def outcomes(caller: Caller, commands: list[Command]) -> tuple[list[MachineRef], list[Refused]]:
    """Those that were made, and those that were refused."""
    found = await asyncio.gather(*[caller.answer(command, MachineRef) for command in commands], return_exceptions=True)
    made = [each for each in found if isinstance(each, MachineRef)]
    refused = [each for each in found if isinstance(each, Refused)]
    assert len(made) + len(refused) == len(commands), found
    return made, refused


async def test_two_managers_of_a_node_never_take_more_than_it_has(fleet: Fleet) -> None:
    """Of 30 creations at once 7 are made and 23 refused, at once; after each stop there is room for one more."""
    caller = await fleet.caller()
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(fleet.inside("n1", "--max-machines", "7"))
        made, refused = await outcomes(caller, [await ask(caller) for _ in range(30)])
        assert (len(made), len(refused)) == (7, 23)
        assert {error.code for error in refused} == {"no-capacity"}
        assert "n1 has 7 of 7 machines" in refused[0].failure.message
        assert sorted((await fleet.node()).claimed) == sorted(ref.id for ref in made)
        for ref in made[:3]:
            await caller.stop(ref)
            await caller.create()
            with pytest.raises(Refused, match="no-capacity"):
                await caller.create()
        assert len(await fleet.live()) == 7


async def test_a_creation_waits_for_room_in_its_turn(fleet: Fleet) -> None:
    """Those that wait are made in their order as others are stopped, and refused at their deadline."""
    caller = await fleet.caller()
    async with fleet.inside("n1", "--max-machines", "1"), fleet.inside("n1", "--max-machines", "1"):
        ref = await caller.create()
        waiting = []
        for number in range(3):
            waiting.append(await ask(caller, wait=40.0, name=str(number)))

            async def recorded(count: int = number + 1) -> bool:
                return sum(record.state == "requested" for record in await fleet.records()) == count

            await eventually(recorded, "it waits")
        late = await ask(caller, wait=0.5)
        with pytest.raises(Refused, match="no-capacity"):
            await caller.answer(late, MachineRef)
        for number, command in enumerate(waiting):
            assert not any(each.id in caller.answers for each in waiting[number:])
            await caller.stop(ref)
            ref = await caller.answer(command, MachineRef)
            assert (await fleet.record(ref.id)).name == str(number)


async def test_a_machine_goes_to_a_node_that_fits(fleet: Fleet) -> None:
    """Labels and backends are looked at, whoever takes the command; what no node has is refused with the reasons."""
    caller = await fleet.caller()
    async with fleet.inside("plain"), fleet.inside("gpu", "--label", "gpu=1", "--label", "zone=a"):
        for _ in range(8):
            assert (await caller.create(labels={"gpu": "1"}, wait=40.0)).node == "gpu"
        with pytest.raises(Refused, match="gpu lacks the label gpu=2"):
            await caller.create(labels={"gpu": "2"})


async def test_a_node_that_comes_later_takes_what_waits(fleet: Fleet) -> None:
    """The command is in another manager's hands, and its answer comes from there."""
    caller = await fleet.caller()
    async with fleet.inside("plain"):
        command = await ask(caller, labels={"gpu": "1"}, wait=40.0)
        async with fleet.inside("gpu", "--label", "gpu=1"):
            assert (await caller.answer(command, MachineRef)).node == "gpu"


async def test_a_full_disk_takes_nothing_and_says_so(fleet: Fleet) -> None:
    """With less free than the minimum there is no room."""
    caller = await fleet.caller()
    async with fleet.inside("n1", "--min-free-disk", "900000t"):
        with pytest.raises(Refused, match="MiB of free disk"):
            await caller.create()


async def test_many_creations_at_once(fleet: Fleet) -> None:
    """Two hundred on two nodes with two managers each: all made, each once."""
    caller = await fleet.caller()
    async with AsyncExitStack() as stack:
        for node in ("a", "a", "b", "b"):
            await stack.enter_async_context(fleet.inside(node))
        made, refused = await outcomes(caller, [await ask(caller, wait=40.0) for _ in range(200)])
        assert refused == []
        assert len({ref.id for ref in made}) == len(await fleet.live()) == 200
        claimed = (await fleet.node("a")).claimed.keys() | (await fleet.node("b")).claimed.keys()
        assert claimed == {ref.id for ref in made}
        assert all(len(answers) == 1 for answers in caller.answers.values())
