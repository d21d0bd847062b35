"""One bad message or process concerns nobody else, and holds up no floor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from host_bodies import parent, pinged, stubborn
from regrow.operations import Output
from regrow.testing import Runtime
from regrow_protocol import ids, streams, subjects
from regrow_protocol import messages as m

Until = Callable[..., Awaitable[None]]


def part_of(rt: Runtime, pid: str) -> Any:
    return rt.host.partitions[ids.partition_of(pid, rt.host.env.partitions)]


def floors_are_closed(rt: Runtime) -> bool:
    return all(not p.floor.pending for p in rt.host.partitions.values())


async def dead_letters(rt: Runtime, count: int) -> list[m.DeadLetter]:
    """All, once there are so many: an answer that was sent after one may be here before it is stored."""
    async with asyncio.timeout(20):
        while len(found := await rt.bus.history(streams.DEAD, subjects.dead("host", rt.app))) < count:
            await asyncio.sleep(0.01)
    return [m.decode(each.data, m.DeadLetter) for each in found]


async def put(rt: Runtime, pid: str, payload: bytes, part: int | None = None) -> None:
    part = ids.partition_of(pid, rt.host.env.partitions) if part is None else part
    inbox = subjects.inbox(rt.app, part, pid)
    await rt.bus.publish(rt.host.inbox_stream, inbox, payload, ids.new_id("t"))


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xfe", b'{"kind":"nothing"}', b"[" * 20_000, b'{"kind":"result","incarnation":0}'],
    ids=["empty", "bytes", "kind", "deep", "fields"],
)
async def test_what_does_not_decode_is_put_aside(rt: Runtime, until: Until, payload: bytes) -> None:
    """It is a dead letter, once, though its process is folded again and again; the process answers."""
    process = await rt.start(pinged)
    assert await process.call("ping", text="a", wait=True) == "a"
    await put(rt, process.pid, payload)
    assert await process.call("ping", text="b") == "b"
    await until(lambda: process.pid not in part_of(rt, process.pid).residents, "parking")
    assert await process.call("ping", text="c") == "c"
    assert [letter.body for letter in await dead_letters(rt, 1)] == [payload]
    await until(lambda: floors_are_closed(rt), "the floors")


async def test_a_message_in_the_wrong_partition(rt: Runtime, until: Until) -> None:
    """It is put aside, and no second copy of the process comes into being there."""
    process = await rt.start(pinged)
    assert await process.call("ping", text="a", wait=True) == "a"
    wrong = (ids.partition_of(process.pid, 16) + 1) % 16
    await put(rt, process.pid, m.encode(m.Cancel()), wrong)
    await until(lambda: rt.host.partitions[wrong].floor.read > 0, "its arrival")
    assert await process.call("ping", text="b") == "b"
    assert [letter.subject for letter in await dead_letters(rt, 1)] == [subjects.inbox(rt.app, wrong, process.pid)]
    assert process.pid not in rt.host.partitions[wrong].residents


async def test_a_call_whose_large_value_is_missing(rt: Runtime, until: Until) -> None:
    """It is answered with an error, and the process goes on, in memory and folded again."""
    process = await rt.start(pinged)
    assert await process.call("ping", text="a", wait=True) == "a"
    args = msgspec.Raw(m.encode({"$blob": "0" * 64, "size": 1_000_000}))
    await put(rt, process.pid, m.encode(m.Call(endpoint="ping", args=args, reply="regrow.reply.c_x.1", client="c_x")))
    assert await process.call("ping", text="b") == "b"
    await until(lambda: process.pid not in part_of(rt, process.pid).residents, "parking")
    assert await process.call("ping", text="c") == "c"
    async with asyncio.timeout(20):
        while (reply := await rt.bus.last(streams.REPLIES, "regrow.reply.c_x.1")) is None:
            await asyncio.sleep(0.01)
    assert m.decode(reply.data, m.Reply).error is not None


async def test_an_answer_to_nowhere(rt: Runtime, until: Until) -> None:
    """Who asks under an id that is none gets no answer, and holds up no other's."""
    process = await rt.start(pinged)
    assert await process.call("ping", text="a", wait=True) == "a"
    op = m.Op(1, "call", "ping", "", "")
    for bad in ("two words", "a.b", "*", ">"):
        by = m.Ref(bad, 0, 1)
        call = m.Call(endpoint="ping", args=msgspec.Raw(b'{"text":"x"}'), op=op, by=by, k=1)
        await put(rt, process.pid, m.encode(call))
    for reply in ("regrow.reply.a b.1", "nowhere", "regrow.reply.*.1"):
        call = m.Call(endpoint="ping", args=msgspec.Raw(b'{"text":"x"}'), reply=reply, client="c_y")
        await put(rt, process.pid, m.encode(call))
    assert await process.call("ping", text="b") == "b"
    assert {letter.subject for letter in await dead_letters(rt, 4)} >= {"two words", "a.b", "*", ">"}
    await until(lambda: floors_are_closed(rt), "the floors")


async def test_a_hanging_turn_parks_its_process_only(rt: Runtime, until: Until) -> None:
    """The process is stuck, others answer, and `resume` takes it up again."""
    bad, good = await rt.start(pinged), await rt.start(pinged)
    assert await bad.call("ping", text="a", wait=True) == "a"
    with pytest.raises(TimeoutError):
        await bad.call("hang", timeout=0.5)
    await until(lambda: bad.pid in part_of(rt, bad.pid).stuck, "parking")
    assert part_of(rt, bad.pid).stuck[bad.pid].code == "body-hung"
    assert await good.call("ping", text="b", wait=True) == "b"
    await until(lambda: floors_are_closed(rt), "the floors")


async def test_a_finally_block_that_hangs_when_its_process_leaves_memory(rt: Runtime, until: Until) -> None:
    """It is ended, and the others answer."""
    bad, good = await rt.start(stubborn), await rt.start(pinged)
    asked = asyncio.ensure_future(bad.call("ping", text="a", wait=True))
    if rt.options.force_replay:  # it leaves memory before that call already, in a turn, and a turn that hangs is parked
        await until(lambda: bad.pid in part_of(rt, bad.pid).stuck, "parking as stuck")
        asked.cancel()
        assert await good.call("ping", text="a", wait=True) == "a"
        return
    assert await asked == "a"
    assert await good.call("ping", text="a", wait=True) == "a"
    await until(lambda: bad.pid not in part_of(rt, bad.pid).residents, "parking")
    assert await good.call("ping", text="b") == "b"
    assert await bad.call("ping", text="b") == "b"


async def test_very_many_parked_processes(rt: Runtime, until: Until) -> None:
    """The cursor stays small enough to be written, and tells who is parked."""
    partition = rt.host.partitions[3]
    for i in range(6000):
        partition.stuck[f"p_{i:026d}"] = m.Stuck(1, "nondeterminism", "x" * 500)
    await until(lambda: len(partition.keeper.cursor.stuck) == 6000, "the cursor")
    found = await rt.bus.kv("regrow_cursors").get(f"{subjects.token(rt.app)}.{rt.build}.3")
    assert found is not None
    assert len(m.decode(found[0], m.Cursor).stuck) == 6000
    assert rt.host.partitions[3] is partition


async def test_what_comes_before_a_child_s_start(rt: Runtime, until: Until) -> None:
    """A message that is in its inbox first does not keep a child from starting, and it starts once."""
    process = await rt.start(pinged)
    assert await process.call("ping", text="a", wait=True) == "a"
    early = ids.new_id(ids.PROCESS)
    await put(rt, early, m.encode(m.Signal(name="early")))
    partition = part_of(rt, process.pid)
    resident = partition.residents[process.pid]
    start = m.Start(type="child_of", args=msgspec.Raw(b'{"text":"late"}'), build=rt.build)
    for n in (1000, 1001):  # the second one is a repeat after a take-over
        partition.publishing.publish(resident, resident.process.applied, [Output("inbox", early, start, n)])
    await until(lambda: floors_are_closed(rt), "the acknowledgements")
    inbox = subjects.inbox(rt.app, ids.partition_of(early, 16), early)
    starts = [r for r in await rt.bus.history(rt.host.inbox_stream, inbox) if b'"start"' in r.data[:30]]
    assert 1 <= len(starts) <= 2


async def test_a_parent_and_its_child(rt: Runtime, until: Until) -> None:
    """After a crash in between, a start is stored once, and nothing stays open."""
    assert await rt.run(parent, "x") == "x"
    await rt.kill_host()
    assert await rt.run(parent, "y") == "y"
    found = await rt.bus.history(rt.host.inbox_stream, f"regrow.inbox.{rt.app}.>")
    starts = [(r.subject) for r in found if b'"start"' in r.data[:30]]
    assert len(starts) == len(set(starts)) == 4
    await until(lambda: floors_are_closed(rt), "the floors")
    assert all(p.recovery is None for p in rt.host.partitions.values())
    await asyncio.gather(*(p.write_cursor() for p in rt.host.partitions.values()))
