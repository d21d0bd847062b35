"""Calls that outlive who made them, and the registries that handle them."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from nats.aio.client import Client as NatsClient
from regrow.testing import Runtime
from regrow.testing.registries import Registry
from regrow_protocol import messages
from regrow_protocol.bus import Bus
from regrow_protocol.endpoints import CallEndpoint, registry_subject
from regrow_protocol.ids import new_id
from regrow_protocol.messages import Command, Reply
from regrow_protocol.streams import COMMANDS, REPLIES
from shops import all_handled, called, calls, eventually, holder, request, shop, street


async def _publish(bus: Bus, app: str, call: CallEndpoint, **fields: Any) -> Command:
    """A durable call, as any client writes it; its answer comes to `reply`."""
    id_ = new_id("x")
    command = Command(
        id=id_, app=app, name="call", args=Raw(messages.encode(call)), reply=f"regrow.reply.{id_}.1", **fields
    )
    await bus.publish(COMMANDS, registry_subject(app), messages.encode(command), id_)
    return command


async def _reply(bus: Bus, command: Command) -> Reply:
    async def stored() -> Any:
        return await bus.last(REPLIES, command.reply)

    return messages.decode((await eventually(stored, "its answer")).data, Reply)


async def test_it_survives_its_caller_and_all_registries(
    rt: Runtime, outside: NatsClient, bus: Bus, name: str, registries: list[Registry], nats_url: str
) -> None:
    """The caller is gone, then each registry that has the call in hand; it is made once, answered and recorded."""
    tree = await rt.start(street, name)
    pid = await holder(bus, name)
    async with await Bus.connect(nats_url, name="caller") as caller:
        args = Raw(b'{"item":"Ada"}')
        command = await _publish(caller, "another-app", CallEndpoint(endpoint="queue", args=args, name=name))

    async def taken() -> bool:
        return await called(bus, rt.app, pid) > 0

    await eventually(taken, "the call")
    for registry in registries:
        registry.kill()
    await rt.kill_host()
    for registry in registries:
        await registry.start_async()
    assert await bus.last(REPLIES, command.reply) is None
    await request(outside, f"regrow.api.{name}.open_gate")
    answer = await _reply(bus, command)
    assert answer == Reply(Raw(b'"served Ada"'))
    await request(outside, f"regrow.api.{name}.close")
    assert await tree.result(45) == [["Ada"]]

    async def recorded() -> Any:
        return (await calls(bus, pid)).get(command.id)

    record = await eventually(recorded, "its record")
    assert (record.endpoint, record.error, record.caller) == ("queue", None, command.id)


async def test_a_repeated_command_is_one_call(rt: Runtime, outside: NatsClient, bus: Bus, name: str) -> None:
    """The same command once more is handled once more, and sells nothing."""
    await rt.start(street, name)
    await holder(bus, name)
    command = await _publish(bus, rt.app, CallEndpoint(endpoint="sell", args=Raw(b'{"item":"a"}'), name=name))
    assert (await _reply(bus, command)).value == Raw(b"1")
    await bus.publish(COMMANDS, registry_subject(rt.app), messages.encode(command), f"{command.id}.again")
    await all_handled(bus, rt.app)
    assert (await request(outside, f"regrow.api.{name}.sell", b'{"item":"b"}')).data == b"2"


async def test_as_the_guide_has_it(rt: Runtime, outside: NatsClient, bus: Bus, name: str) -> None:
    """The command that the guide shows, from a client that knows only NATS."""
    await rt.start(street, name)
    await holder(bus, name)
    guide = (Path(__file__).parents[3] / "docs/guides/endpoints.md").read_text()
    shown = re.search(r"regrow\.command\.registry\.shop '(.*?)'\n", guide, re.DOTALL)
    assert shown is not None
    command = json.loads(shown[1])
    assert command["args"] == {"name": "pool", "endpoint": "add_task", "args": {"spec": "read the logs"}}
    command |= {"id": f"{name}.1", "app": rt.app, "reply": f"regrow.reply.{name}.1"}
    command["args"] = {"name": name, "endpoint": "sell", "args": {"item": "a"}}
    stored = await outside.request(f"regrow.command.registry.{rt.app}", json.dumps(command).encode(), timeout=30)
    assert json.loads(stored.data)["stream"] == COMMANDS

    async def answered() -> Any:
        return await bus.last(REPLIES, f"regrow.reply.{name}.1")

    assert json.loads((await eventually(answered, "its answer")).data) == {"value": 1}


async def test_what_is_refused(rt: Runtime, bus: Bus, name: str) -> None:
    """Each is answered with what is wrong: nobody there, nothing so named, arguments, whose process it is."""
    process = await rt.start(shop)
    one = CallEndpoint(endpoint="sell", args=Raw(b'{"item":"a"}'), pid=process.pid)
    assert (await _reply(bus, await _publish(bus, rt.app, one))).value == Raw(b"1")
    wrong = [
        (CallEndpoint(endpoint="sell", name=name), "process-not-found"),
        (CallEndpoint(endpoint="rent", pid=process.pid), "endpoint-not-found"),
        (CallEndpoint(endpoint="sell", args=Raw(b'{"item":1}'), pid=process.pid), "invalid-arguments"),
        (CallEndpoint(endpoint="sell"), "refused"),
        (CallEndpoint(endpoint="burn", pid=process.pid), "exception"),
    ]
    commands = [await _publish(bus, rt.app, call) for call, _ in wrong]
    commands.append(await _publish(bus, "another-app", one))
    errors = [answer.error for answer in await asyncio.gather(*[_reply(bus, command) for command in commands])]
    assert [error.code for error in errors if error] == [*[code for _, code in wrong], "process-not-found"]


@pytest.mark.parametrize("reply", ["regrow.event.x.y.z", "regrow.inbox.other.1.p_1", "regrow.api.a.b"])
async def test_an_answer_goes_where_it_may(rt: Runtime, bus: Bus, reply: str) -> None:
    """A command that wants its answer elsewhere is a dead letter, and no call."""
    process = await rt.start(shop)
    id_ = new_id("x")
    call = CallEndpoint(endpoint="sell", args=Raw(b'{"item":"a"}'), pid=process.pid)
    command = Command(id=id_, app=rt.app, name="call", args=Raw(messages.encode(call)), reply=reply)
    await bus.publish(COMMANDS, registry_subject(rt.app), messages.encode(command), id_)

    async def buried() -> bool:
        found = await bus.history("REGROW_DEAD", "regrow.dead.registry.>")
        return any(id_ in each.data.decode() or reply in each.data.decode() for each in found)

    await eventually(buried, "its dead letter")
    assert await process.call("sell", item="b") == 1
