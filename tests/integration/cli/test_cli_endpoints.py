"""`regrow endpoints`, `calls`, `grants`, and `call` by a public name, on the embedded stack with its registry."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import nats
import pytest
from conftest_cli import Launch, Stack, until
from regrow_protocol import agents, ids, messages, streams
from regrow_protocol.agents import AgentRecord
from regrow_protocol.bus import Bus
from regrow_protocol.endpoints import BUCKET, Grant, grant_key, name_key
from regrow_protocol.messages import Ref

pytestmark = [pytest.mark.xdist_group("cli-endpoints"), pytest.mark.timeout(180)]


def test_a_public_process_from_outside(stack: Stack, launch: Launch, tally: Path) -> None:
    """What a named process exposes is listed with its subject and schema; calls by name are checked and recorded."""
    running = launch("run", f"{tally}:pool", "label=x", "--name", "shop")

    async def public() -> bool:
        async with await Bus.connect(stack.url, name="test") as bus:
            await streams.ensure(bus)
            return await bus.kv(BUCKET).get(name_key("shop")) is not None

    until(lambda: asyncio.run(public()), "the public name")
    until(lambda: [row for row in stack.rows(tally.stem) if row.name == "shop"], "its name in the list")

    async def outside() -> bytes:
        client = await nats.connect(stack.url)
        try:
            return (await client.request("regrow.api.shop.add", b'{"item":"a","times":2}', timeout=20)).data
        finally:
            await client.close()

    assert asyncio.run(outside()) == b"2"
    assert stack.regrow("call", "shop", "add", "item=b").json == 3
    refused = stack.regrow("call", "shop", "add", "item=b", "times=many")
    assert (refused.code, "argument 'times' must be an integer, not \"many\"" in refused.error) == (2, True)

    rows = stack.regrow("endpoints", "shop", "--json").json
    assert [(row["endpoint"], row["public"]) for row in rows] == [("add", True), ("finish", True)]
    assert rows[0]["arguments"]["required"] == ["item"]
    listed = stack.regrow("endpoints").out
    assert "regrow.api.shop.add" in listed
    assert '"times"' in stack.regrow("endpoints", "shop", "--schema").out

    def calls() -> list[str]:
        return stack.regrow("calls", "shop").out.splitlines()

    until(lambda: len(calls()) == 3, "their records")  # written beside the answers
    lines = calls()
    assert [line.split()[2] for line in lines] == ["add"] * 3
    assert "InvalidArguments" in lines[2]

    assert stack.regrow("call", "shop", "finish").code == 0
    assert running.wait().json == ["x", "a", "a", "b"]


def test_grants_are_listed_and_revoked(stack: Stack) -> None:
    """A grant that stands is listed with its limits, until it is revoked."""
    grant = Grant(
        id=ids.new_id(ids.GRANT), app="none", agent=ids.new_id(ids.AGENT), pid=ids.new_id(ids.PROCESS), only=["add"],
        prefix="shop_", rate=30.0, expires=time.time() + 3600, created=time.time(),
    )  # fmt: skip
    agent = AgentRecord(
        id=grant.agent, app="none", command="x", name="a", owner=Ref(grant.pid, 0, 1), harness="none", state="running"
    )

    async def write() -> None:
        async with await Bus.connect(stack.url, name="test") as bus:
            await streams.ensure(bus)
            # The registry revokes grants of agents that are not there.
            await bus.kv(agents.BUCKET).put(f"agent.{agent.id}", messages.encode(agent))
            await bus.kv(BUCKET).put(grant_key(grant.agent, grant.id), messages.encode(grant))

    asyncio.run(write())
    (row,) = [line for line in stack.regrow("grants").out.splitlines() if grant.id in line]
    assert "30/min" in row
    assert stack.regrow("grants", "--revoke", grant.id).code == 0
    assert grant.id not in stack.regrow("grants", "--json").out
    assert stack.regrow("grants", "--revoke", "g_none").code == 5
