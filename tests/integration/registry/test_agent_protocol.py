"""Running agents in the Synadia Agent Protocol: found, prompted and watched by a client that knows only that."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from http_agent import Harness, command, gateway, harness, working
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from regrow.testing import Runtime
from regrow.testing.registries import Registry
from regrow_protocol.agents import agent_subject
from regrow_protocol.bus import Bus
from regrow_protocol.machines import Nothing
from shops import eventually

__all__ = ["gateway", "harness"]


async def _info(outside: NatsClient, harness: Harness) -> dict[str, Any]:
    async def ask() -> Any:
        inbox = outside.new_inbox()
        answers = await outside.subscribe(inbox)
        await outside.publish("$SRV.INFO.agents", b"", reply=inbox)
        try:
            while True:
                info = json.loads((await answers.next_msg(timeout=0.5)).data)
                if info["metadata"]["session"] == harness.id:
                    return info
        except TimeoutError:
            return None
        finally:
            await answers.unsubscribe()

    return await eventually(ask, "the agent")


async def _prompt(outside: NatsClient, subject: str, body: bytes, *, nothing_follows: bool = False) -> list[Msg]:
    """All that comes until the empty message, which is the last one."""
    inbox = outside.new_inbox()
    answers = await outside.subscribe(inbox)
    await outside.publish(subject, body, reply=inbox)
    found: list[Msg] = []
    while not found or found[-1].data or found[-1].headers:
        found.append(await answers.next_msg(timeout=45))
    if nothing_follows:
        with pytest.raises(TimeoutError):
            await answers.next_msg(timeout=0.1)
    await answers.unsubscribe()
    return found[:-1]


def _subjects(info: dict[str, Any]) -> dict[str, str]:
    assert {each["queue_group"] for each in info["endpoints"]} == {"agents"}
    return {each["name"]: each["subject"] for each in info["endpoints"]}


async def test_discovery_status_and_heartbeat(
    rt: Runtime, outside: NatsClient, bus: Bus, harness: Harness, registries: list[Registry]
) -> None:
    """As the protocol's checklist has it; who is gone is found no more."""
    info = await _info(outside, harness)
    assert info["name"] == "agents"
    known = {"agent": "none", "owner": rt.app, "session": harness.id, "protocol_version": "0.3"}
    assert known.items() <= info["metadata"].items()
    subjects = _subjects(info)
    assert subjects["prompt"] == f"agents.prompt.none.{rt.app}.{harness.id}"
    (prompt,) = [each for each in info["endpoints"] if each["name"] == "prompt"]
    assert prompt["metadata"] == {"max_payload": "1024KB", "attachments_ok": "false"}
    beats = await outside.subscribe(f"agents.hb.none.{rt.app}.{harness.id}")
    status = json.loads((await outside.request(subjects["status"], b"", timeout=30)).data)
    assert {key: status[key] for key in ("agent", "owner", "session")} == {
        "agent": "none", "owner": rt.app, "session": harness.id,
    }  # fmt: skip
    assert status["interval_s"] == 1
    beat = json.loads((await beats.next_msg(timeout=30)).data)
    assert beat.keys() == status.keys()
    await command(bus, rt.app, agent_subject(rt.app, harness.id), "stop", Nothing())

    async def gone() -> bool:
        try:
            await outside.request(subjects["status"], b"", timeout=1)
        except Exception as error:  # noqa: BLE001 - no responders, or nobody any more
            return type(error).__name__ == "NoRespondersError"
        return False

    await eventually(gone, "its end")


async def test_a_prompt_and_its_answer(outside: NatsClient, harness: Harness) -> None:
    """`ack` first, then what it says, an empty message last; as text and as envelope."""
    subject = _subjects(await _info(outside, harness))["prompt"]
    async with working(harness):
        for body in (b"one two three", b' {"prompt": "one two three", "later": true, "attachments": []}'):
            chunks = [json.loads(each.data) for each in await _prompt(outside, subject, body)]
            assert chunks[0] == {"type": "status", "data": "ack"}
            assert chunks[1:] == [{"type": "response", "data": word} for word in ("one", "\n\ntwo", "\n\nthree")]


async def test_a_prompt_to_a_busy_agent(outside: NatsClient, harness: Harness) -> None:
    """What it says in the turn that is under way, and in the one that takes the message, is the answer."""
    subject = _subjects(await _info(outside, harness))["prompt"]
    await harness.tell("turn", state="started")
    await harness.tell("text", text="before")
    asking = asyncio.ensure_future(_prompt(outside, subject, b"hello"))
    assert await harness.message() == "hello"
    await harness.tell("text", text="still busy")
    # at once: an answer is whole when the agent rests
    await harness.ask("/entries", [{"type": "turn", "data": {"state": state}} for state in ("ended", "started")])
    await harness.tell("text", text="hello yourself")
    await harness.tell("turn", state="ended")
    chunks = [json.loads(each.data)["data"] for each in await asking]
    assert chunks == ["ack", "still busy", "\n\nhello yourself"]


MALFORMED = [
    b"",
    b"\xff",
    b"{}",
    b'{"prompt": ""}',
    b'{"prompt": 7}',
    b'{"prompt": "x"',
    b'{"prompt": "x", "attachments": [{"filename": "a", "content": "YQ=="}]}',
    b'{"prompt": "x", "attachments": 5}',
]


async def test_malformed_prompts(outside: NatsClient, harness: Harness) -> None:
    """400 in the headers, a JSON body, then the empty message; the agent hears nothing of it."""
    subject = _subjects(await _info(outside, harness))["prompt"]
    for body in MALFORMED:
        (refused,) = await _prompt(outside, subject, body, nothing_follows=True)
        assert refused.headers is not None
        assert refused.headers["Nats-Service-Error-Code"] == "400"
        assert json.loads(refused.data).keys() == {"error", "message"}
    assert (await harness.ask("/messages?after=0"))["messages"] == []
