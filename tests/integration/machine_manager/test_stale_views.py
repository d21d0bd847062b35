"""What a manager believes may be old: a change that it makes holds only for what it was meant for.

Its view of the records is stopped here, as that of one that was away for a moment; then it acts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

from machinekit import Caller, Fleet, eventually
from msgspec.structs import replace
from regrow_machine_manager.capacity import Claims, Need, NoCapacity
from regrow_machine_manager.context import Context
from regrow_machine_manager.creation import Creation
from regrow_machine_manager.ending import Ending
from regrow_machine_manager.handling import WHICHEVER
from regrow_machine_manager.leases import Leases
from regrow_machine_manager.measures import TABLE
from regrow_machine_manager.once import Once
from regrow_machine_manager.records import Records
from regrow_machine_manager.registry import Backends
from regrow_machine_manager.warm import Warm
from regrow_protocol.bus import Received
from regrow_protocol.images import DockerImage, LocalImage, encode_image
from regrow_protocol.machines import MachineRecord, ManagerRecord
from regrow_protocol.messages import EventRecord, Ref
from regrow_service.answers import Answers
from regrow_service.metrics import Metrics


@asynccontextmanager
async def context(fleet: Fleet, *options: str) -> AsyncIterator[Context]:
    """Parts of a manager whose records are not followed: it knows what it has read."""
    settings = fleet.settings("n1", *options)

    def no_work(work: Coroutine[Any, Any, None], name: str) -> None:
        work.close()

    records = Records(fleet.bus)
    yield Context(
        id="w_old", node="n1", bus=fleet.bus, settings=settings, metrics=Metrics(TABLE), records=records,
        claims=Claims(records), backends=Backends(settings, "", lambda: None), answers=Answers(fleet.bus),
        stopping=asyncio.Event(), background=no_work,
    )  # fmt: skip


def _record(caller: Caller, **fields: Any) -> MachineRecord:
    fields = {"state": "ready", "image": encode_image(LocalImage()), **fields}
    return MachineRecord(id="m_1", app=caller.app, command="x.1", node="n2", backend="local", **fields)


async def test_a_machine_that_was_given_away_is_not_stopped_with_its_giver(fleet: Fleet) -> None:
    """Although who hears of the giver's end does not know yet."""
    caller = await fleet.caller(process=True)
    mine = _record(caller, owner=Ref(caller.pid, 0, 1))
    async with context(fleet) as here:
        assert await here.records.create(mine)
        other = Records(fleet.bus)
        _, given = await other.change("m_1", lambda now: replace(now, owner=Ref("p_other", WHICHEVER, 0)))
        assert given
        leases = Leases(here, Ending(here), "machine")
        event = EventRecord(pid=caller.pid, incarnation=0, n=1, seq=1, type="done", time=1.0, final=True)
        await leases._event(event, cast("Received", None))
    assert (await fleet.record("m_1")).state == "ready"


async def test_a_warm_machine_that_was_taken_is_not_stopped_for_room(fleet: Fleet) -> None:
    """Although who needs room does not know yet that somebody has it."""
    caller = await fleet.caller(process=True)
    warm = replace(_record(caller, state="warm", image=encode_image(DockerImage("x"))), app="", node="n1")
    async with context(fleet) as here:
        spare = Warm(here, Ending(here))
        assert await here.records.create(warm)
        other = Records(fleet.bus)
        _, taken = await other.change(
            "m_1", lambda now: replace(now, state="ready", app=caller.app, owner=Ref(caller.pid, 0, 1))
        )
        assert taken
        await spare.give_up_one()
    assert (await fleet.record("m_1")).state == "ready"


async def test_more_warm_machines_than_wanted_are_given_up(fleet: Fleet) -> None:
    """As when two managers of a node began to make them at the same time: the first ones stay."""
    caller = await fleet.caller(process=True)
    record = replace(_record(caller, state="warm", image=encode_image(DockerImage("x"))), app="", node="n1")
    async with context(fleet, "--warm", "x=2") as here:
        spare = Warm(here, Ending(here))
        for number in range(5):
            assert await here.records.create(replace(record, id=f"m_{number}"))
        looking = asyncio.create_task(spare.run())
        try:
            await eventually(lambda: len(spare.spare("n1")) <= 2, "they are given up")
        finally:
            looking.cancel()
            await asyncio.wait([looking])
    assert sorted(each.id for each in await fleet.records() if each.state == "warm") == ["m_0", "m_1"]


async def test_nobody_is_refused_for_room_that_was_given_back(fleet: Fleet) -> None:
    """Although who would refuse does not know yet."""
    async with context(fleet) as here:
        ending = Ending(here)
        creation = Creation(here, ending, Warm(here, ending), Once(here.answers))
        await here.records.change_node("n1", lambda now: replace(now, backends=["local"], max_machines=1))
        here.records.managers["w_old"] = ManagerRecord(id="w_old", node="n1", started=1.0)
        assert await here.claims.claim("n1", {"m_1": 0}) == ""
        await eventually(here.records.settled, "it may refuse")
        assert isinstance(await creation.refusal(Need("local")), NoCapacity)
        other = Records(fleet.bus)
        other.nodes.update(here.records.nodes)
        await Claims(other).release("n1", ["m_1"])
        assert await creation.refusal(Need("local")) is None
