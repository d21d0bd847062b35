"""Leases: a machine ends with its owner, whatever happens to managers meanwhile."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from machinekit import Caller, Fleet, eventually
from regrow_protocol import messages
from regrow_protocol.ids import HOST, new_id
from regrow_protocol.messages import HostRecord
from regrow_protocol.subjects import token


async def host(fleet: Fleet, caller: Caller, ttl: float | None = None) -> str:
    """Register a host of the caller's app; its key."""
    record = HostRecord(host=new_id(HOST), app=caller.app, build="b", types=[])
    key = f"{token(caller.app)}.{record.host}"
    await fleet.bus.kv("regrow_hosts").put(key, messages.encode(record), ttl=ttl)
    return key


@pytest.mark.parametrize("end", ["done", "failed", "cancelled"])
async def test_a_machine_is_stopped_when_its_owner_has_ended(fleet: Fleet, end: str) -> None:
    """By the owner's final event; kept ones and those of other processes and of clients go on."""
    owner = await fleet.caller(process=True)
    other = await fleet.caller(owner.app, process=True)
    client = await fleet.caller(owner.app)
    async with fleet.inside():
        mine, kept = await owner.create(), await owner.create(keep=True)
        theirs, nobodys = await other.create(), await client.create()
        await fleet.announce(owner, end)
        record = await eventually(lambda: fleet.ended(mine), "it is stopped")
        assert (record.state, record.reason) == ("stopped", f"owner {end}")
        assert {each.id for each in await fleet.live()} == {kept.id, theirs.id, nobodys.id}


async def test_a_newer_incarnation_begins_without_the_machines_of_the_last(fleet: Fleet) -> None:
    """`restarted` stops those of older incarnations, not those of the new one."""
    owner = await fleet.caller(process=True)
    async with fleet.inside():
        old = await owner.create()
        owner.incarnation = 1
        new = await owner.create()
        await fleet.announce(owner, "restarted", incarnation=1)
        record = await eventually(lambda: fleet.ended(old), "the old one is stopped")
        assert record.reason == "owner restarted"
        assert [each.id for each in await fleet.live()] == [new.id]


async def test_an_end_that_was_missed_is_found(fleet: Fleet) -> None:
    """No manager saw an event: the sweep finds the end in the list of processes."""
    owner = await fleet.caller(process=True)
    await fleet.process(owner)
    await host(fleet, owner)
    async with fleet.inside("n1", "--lease", "2"):
        ref = await owner.create()
        await fleet.process(owner, "done")
        record = await eventually(lambda: fleet.ended(ref), "it is stopped")
        assert record.reason == "owner done"


async def test_an_owner_that_never_comes_back_loses_its_machines(fleet: Fleet) -> None:
    """While a host of the app lives nothing happens; when none does for the lease, its machines are stopped."""
    owner, other = await fleet.caller(process=True), await fleet.caller(process=True)
    for caller in (owner, other):
        await fleet.process(caller)
    await host(fleet, other)
    key = await host(fleet, owner)
    async with fleet.inside("n1", "--lease", "2"):
        ref, theirs = await owner.create(), await other.create()
        begun = time.time()
        await eventually(lambda: seen_after(fleet, ref.id, begun + 2), "its lease is renewed")
        await fleet.bus.kv("regrow_hosts").delete(key)
        record = await eventually(lambda: fleet.ended(ref), "it is stopped")
        assert record.reason == "owner lost"
        assert [each.id for each in await fleet.live()] == [theirs.id]


async def test_an_owner_that_the_list_of_processes_lacks_is_asked_for_its_events(fleet: Fleet) -> None:
    """While nobody writes the list, an owner that has announced something lives; one that nobody knows does not."""
    owner, unknown = await fleet.caller(process=True), await fleet.caller(process=True)
    await host(fleet, owner)
    await host(fleet, unknown)
    await fleet.process(unknown)
    await fleet.announce(owner, "started")
    async with fleet.inside("n1", "--lease", "1"):
        ref, theirs = await owner.create(), await unknown.create()
        begun = time.time()
        await fleet.bus.kv("regrow_processes").delete(unknown.pid)
        record = await eventually(lambda: fleet.ended(theirs), "that of the unknown one is stopped")
        assert record.reason == "owner lost"
        await eventually(lambda: seen_after(fleet, ref.id, begun + 3), "its lease is renewed")
        await fleet.announce(owner, "done")
        record = await eventually(lambda: fleet.ended(ref), "it is stopped")
        assert record.reason == "owner done"


async def seen_after(fleet: Fleet, id_: str, when: float) -> bool:
    """Whether a machine's lease was renewed after a moment."""
    return (await fleet.record(id_)).seen > when


async def test_owners_that_end_while_no_manager_is_there(fleet: Fleet) -> None:
    """The machine outlives its managers, and is stopped by the next one of its node."""
    owner = await fleet.caller(process=True)
    program = await fleet.start()
    ref = await owner.create()
    await program.kill()
    folder = next(fleet.folder.glob(f"n1/*/local/machines/{ref.id}"))
    await fleet.announce(owner, "done")
    assert folder.exists()
    await fleet.start()
    await eventually(lambda: fleet.ended(ref), "it is stopped")
    assert not folder.exists()


async def test_a_machine_that_no_record_knows_is_removed(fleet: Fleet) -> None:
    """After a grace; and one whose record says it is there but is not, is lost."""
    caller = await fleet.caller(process=True)
    async with fleet.inside("n1", "--grace", "1"):
        orphan, lost, fine = [await caller.create() for _ in range(3)]
        folder, other = [next(fleet.folder.glob(f"n1/*/local/machines/{each.id}")) for each in (orphan, lost)]
        await fleet.bus.kv("regrow_machines").purge(f"machine.{orphan.id}", marker_ttl=1.0)
        await remove(other)
        await eventually(lambda: not folder.exists(), "the orphan is removed")
        record = await eventually(lambda: fleet.ended(lost), "the lost one is found")
        assert (record.state, record.reason) == ("failed", "lost")
        assert [each.id for each in await fleet.live()] == [fine.id]
        assert (await caller.exec(fine, "echo fine")).stdout == b"fine\n"


async def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, as an operator would."""
    process = await asyncio.create_subprocess_exec("rm", "-rf", str(folder))
    assert await process.wait() == 0
