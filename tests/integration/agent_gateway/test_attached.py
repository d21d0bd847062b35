"""Endpoints of processes that were attached to an agent: which it may call, how often, and for how long."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from agentkit import Socket, bearer, owned
from gateway_bodies import owner
from gatewaykit import Caller, tool
from msgspec.structs import replace
from regrow.testing import Runtime
from regrow_protocol import messages
from regrow_protocol.endpoints import BUCKET, CallRecord, EndpointsRecord, Grant, grant_key, process_key
from regrow_protocol.ids import new_id
from regrow_protocol.streams import CALLS

pytestmark = pytest.mark.usefixtures("gateway")


async def attach(caller: Caller, agent: str, pid: str, **more: object) -> Grant:
    """What the registry writes when a process attaches itself, or changes what it wrote."""
    grant = Grant(**{"id": new_id("g"), "app": caller.app, "agent": agent, "pid": pid, "created": time.time()} | more)  # type: ignore[arg-type]
    await caller.bus.kv(BUCKET).put(grant_key(agent, grant.id), messages.encode(grant))
    return grant


async def test_what_was_attached_is_called_in_the_process_that_granted_it(rt: Runtime, http: httpx.AsyncClient) -> None:
    """Under its prefix, only what was named, at its rate, until it is revoked; each call is recorded."""
    _, caller, agent = await owned(rt)
    pool = await rt.start(owner)
    stranger = await caller.enrol("stranger")
    bucket = caller.bus.kv(BUCKET)
    served = EndpointsRecord(
        pid=pool.pid, app=rt.app, type="owner", endpoints={name: tool(name) for name in ("called", "finish")}
    )
    await bucket.put(process_key(pool.pid), messages.encode(served))
    async with Socket(agent) as it:
        await it.next("hello")
        grant = await attach(caller, agent.id, pool.pid, only=["called"], prefix="pool_", rate=2.0)
        names = [each["name"] for each in (await it.next("tools"))["tools"]]
        assert names == ["add", "echo", "fault", "patient", "pool_called"]
        assert (await it.call("1", "pool_called"))["value"] == []
        assert (await it.call("2", "pool_called"))["value"] == []
        refused = await it.call("3", "pool_called")
        assert refused["error"]["code"] == "too-many"
        assert (await it.call("1", "pool_called"))["value"] == [], "a repeat is no further call"
        assert (await it.call("4", "pool_finish"))["error"]["code"] == "tool-not-found"
        assert (await it.call("5", "finish"))["error"]["code"] == "tool-not-found"
        late = await http.post(f"{agent.url}/tools/pool_called", json={}, headers=bearer(agent))
        assert late.status_code == 429
        await bucket.put(grant_key(agent.id, grant.id), messages.encode(replace(grant, expires=time.time())))
        assert "pool_called" not in [each["name"] for each in (await it.next("tools"))["tools"]]
        assert (await it.call("6", "pool_called"))["error"]["code"] == "tool-not-found"
        assert (await it.call("2", "pool_called"))["value"] == [], "what was called while it could be"
        brief = await attach(caller, agent.id, pool.pid, only=["called"], prefix="brief_")
        assert "brief_called" in [each["name"] for each in (await it.next("tools"))["tools"]]
        await bucket.put(grant_key(agent.id, brief.id), messages.encode(replace(brief, expires=time.time() + 1.0)))
        assert "brief_called" not in [each["name"] for each in (await it.next("tools"))["tools"]]
        await attach(caller, agent.id, pool.pid)
        assert "finish" in [each["name"] for each in (await it.next("tools"))["tools"]]
        await bucket.put(process_key(pool.pid), messages.encode(replace(served, endpoints={}, ended=True)))
        assert "finish" not in [each["name"] for each in (await it.next("tools"))["tools"]]
    assert (await http.get(f"{stranger.url}/tools", headers=bearer(stranger))).json() == {"tools": []}
    async with asyncio.timeout(30):
        while len(found := await caller.bus.history(CALLS, f"regrow.called.{rt.app}.{pool.pid}.*")) < 2:
            await asyncio.sleep(0.01)
    recorded = [messages.decode(each.data, CallRecord) for each in found]
    assert [(each.endpoint, each.caller, each.size, each.error) for each in recorded] == [
        ("called", agent.id, 2, None)
    ] * 2


async def test_a_call_waits_for_a_process_that_is_started_again(rt: Runtime) -> None:
    """What it had exposed is withdrawn, and exposed again a moment later: nobody is refused meanwhile."""
    _, caller, agent = await owned(rt)
    pool = await rt.start(owner)
    bucket = caller.bus.kv(BUCKET)
    served = EndpointsRecord(pid=pool.pid, app=rt.app, type="owner", endpoints={"called": tool("called")})
    await attach(caller, agent.id, pool.pid, prefix="pool_")
    answers: list[dict[str, Any]] = []
    async with Socket(agent) as it:
        await it.next("hello")
        while not answers or ("error" in answers[-1] and len(answers) < 5):  # it waits for a few seconds only
            call = str(len(answers))
            for endpoints in (served.endpoints, {}):
                await bucket.put(process_key(pool.pid), messages.encode(replace(served, endpoints=endpoints)))
                assert ("pool_called" in [each["name"] for each in (await it.next("tools"))["tools"]]) == bool(
                    endpoints
                )
            await it.say(type="call", id=call, tool="pool_called", args={})
            await it.say(type="ping", id=call)
            await it.next("pong", id=call)
            await bucket.put(process_key(pool.pid), messages.encode(served))
            await it.next("tools")
            answers.append(await it.next("result", id=call))
            await bucket.put(process_key(pool.pid), messages.encode(replace(served, endpoints={})))
            await it.next("tools")
        assert answers[-1].get("value") == [], answers
        assert (await it.call("other", "pool_other"))["error"]["code"] == "tool-not-found"


async def test_a_grant_of_another_app_opens_nothing(rt: Runtime, caller: Caller) -> None:
    """Neither one that names another app's agent, nor one for a process of another app."""
    agent = await caller.enrol("a")
    pool = await rt.start(owner)
    record = EndpointsRecord(pid=pool.pid, app=rt.app, type="owner", endpoints={"called": tool("called")})
    await caller.bus.kv(BUCKET).put(process_key(pool.pid), messages.encode(record))
    await attach(caller, agent.id, pool.pid)
    await attach(caller, agent.id, pool.pid, app=rt.app)
    async with Socket(agent) as it:
        assert (await it.next("hello"))["tools"] == []
        assert (await it.call("c", "called"))["error"]["code"] == "tool-not-found"
