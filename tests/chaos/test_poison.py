"""One bad message stops nobody: what comes after it is handled, and what an inbox cannot decode is put aside."""

from __future__ import annotations

import pytest
from chaoskit import Stack, until
from regrow.client import RemoteProcess
from regrow_protocol import agents, streams, subjects
from regrow_protocol import messages as m
from regrow_protocol.ids import PROCESS, new_id, partition_of

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]

POISON = [
    b"",
    b"\xff\xfe\x00",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b'{"kind":"nonsense"}',
    b'{"kind":"start"}',
    b'{"kind":"call","endpoint":7,"args":{}}',
    b'{"kind":"result","incarnation":0,"op":[1]}',
    b'{"kind": "resume", "at": "never"}',
    b'{"pid":"x"}',
    b"[" * 5000,
]
"""Nothing of it decodes, as an input or as anything else."""

STRANGE = [
    b'{"kind":"result","incarnation":7,"op":[77,"step","f","0","0"],"value":1}',
    b'{"kind":"timer","incarnation":3,"op":[1,"timer","","0","0"],"due":0}',
    b'{"kind":"child","incarnation":7,"op":[1,"spawn","x","0","0"],"pid":"p_x","status":"done","value":1}',
    b'{"kind":"host_lost","incarnation":0}',
    b'{"kind":"upgrade","build":"nobody"}',
    b'{"kind":"act","incarnation":0,"m":1,"what":"nonsense"}',
    b'{"kind":"call","endpoint":"ping","args":{"text":1},"reply":"no subject at all"}',
    b'{"kind":"call","endpoint":"ping","args":[1],"reply":"regrow.reply.x.1"}',
    b'{"kind":"call","endpoint":"ping","args":{"text":"x"},"by":["../..",0,1],"op":[1,"call","ping","0","0"]}',
    b'{"kind":"watch","by":["*.>",0,1]}',
    b'{"kind":"signal","name":"\\u0000","data":{"$blob":"nowhere","size":1}}',
    b'{"kind":"event","incarnation":0,"n":1,"event":{"pid":"p","incarnation":0,"n":1,"seq":1,"type":"x","time":0}}',
]
"""It decodes, and is not meant for anybody who gets it."""


async def put(stack: Stack, stream: str, subject: str, payload: bytes) -> None:
    await stack.bus.publish(stream, subject, payload, stack.bus.fresh_id())


async def all_is_well(stack: Stack, old: RemoteProcess) -> None:
    """A process answers, a new one runs, is watched to its end and is listed."""
    assert await old.call("ping", text="still", wait=True) == "still"
    new = await stack.start("neighbour")
    assert await new.call("finish", result="good", wait=True) is None
    assert await new.result(30) == "good"
    assert [event.type async for event in new.events()] == ["started", "done"]

    async def listed() -> bool:
        found = await stack.bus.kv("regrow_processes").get(new.pid)
        return found is not None and m.decode(found[0], m.ProcessRecord).status == "done"

    await until(listed, "the projection")


@pytest.mark.parametrize("payloads", [POISON, STRANGE], ids=["undecodable", "out-of-place"])
async def test_bad_inputs(stack: Stack, payloads: list[bytes]) -> None:
    """The next good message is handled, live and on replay; what does not decode is a dead letter."""
    await stack.supervise()
    host = await stack.host()
    process = await stack.start("neighbour")
    assert await process.call("ping", text="before", wait=True) == "before"
    known = subjects.inbox(stack.app, partition_of(process.pid, 16), process.pid)
    stranger = new_id(PROCESS)
    unknown = subjects.inbox(stack.app, partition_of(stranger, 16), stranger)
    elsewhere = subjects.inbox(stack.app, 99, stranger)
    for payload in payloads:
        await put(stack, stack.inbox, elsewhere, payload)
        await put(stack, stack.inbox, unknown, payload)
        if b"upgrade" not in payload:  # that one is obeyed
            await put(stack, stack.inbox, known, payload)
    await all_is_well(stack, process)
    await stack.kill(host)
    await stack.host()
    await all_is_well(stack, process)
    assert await stack.stuck() == {}

    async def put_aside() -> bool:
        letters = [
            m.decode(letter.data, m.DeadLetter)
            for letter in await stack.bus.history(streams.DEAD, "regrow.dead.host.>")
        ]
        inputs = [letter for letter in letters if letter.seq]
        assert len({letter.seq for letter in inputs}) == len(inputs), "one message has two dead letters"
        aside = {(letter.subject, letter.body) for letter in inputs}
        return aside >= {(subject, payload) for subject in (known, unknown) for payload in payloads}

    if payloads is POISON:
        await until(put_aside, "the dead letters")


async def test_bad_messages_everywhere_else(stack: Stack) -> None:
    """Bad messages on the subjects of events, timers, replies, commands, agents and dead letters stop nobody either."""
    await stack.supervise()
    await stack.host()
    process = await stack.start("neighbour")
    assert await process.call("ping", text="before", wait=True) == "before"
    part = partition_of(process.pid, 16)
    for payload in [*POISON, *STRANGE]:
        await put(stack, streams.EVENTS, subjects.event(stack.app, new_id(PROCESS), "started"), payload)
        await put(stack, streams.EVENTS, f"regrow.event.{stack.app}", payload)
        await put(stack, stack.inbox, subjects.timer(stack.app, part, process.pid, 0, 1), payload)
        await put(stack, streams.REPLIES, subjects.reply(stack.client.id, "x"), payload)
        await put(stack, streams.REPLIES, subjects.reply(stack.client.id, 1), payload)
        await put(stack, streams.COMMANDS, subjects.command("supervisor", "x"), payload)
        await put(stack, streams.AGENTS, agents.entry_subject("x", "a_x", "message", "c0ffee"), payload)
        await put(stack, streams.DEAD, subjects.dead("host", stack.app), payload)
    await all_is_well(stack, process)
    # A watched process's own subject, before its next event.
    for payload in POISON:
        await put(stack, streams.EVENTS, subjects.event(stack.app, process.pid, "started"), payload)
    assert await process.call("finish", result="end") is None
    assert await process.result(30) == "end"
    await all_is_well(stack, await stack.start("neighbour"))
