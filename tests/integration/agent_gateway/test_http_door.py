"""The plain HTTP door: what it lets through, what it refuses and how, and that curl is enough to be an agent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from agentkit import bearer, owned
from gatewaykit import Caller, tool
from regrow.testing import Runtime
from regrow.testing.gateways import Gateway
from regrow_protocol.agents import Send
from regrow_protocol.machines import Nothing

pytestmark = pytest.mark.usefixtures("gateway")


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_who_has_not_the_agents_token_learns_nothing(
    caller: Caller, http: httpx.AsyncClient, gateway: Gateway
) -> None:
    """None, a wrong one, another agent's, one of an agent that has ended, or of one that never was: on each path."""
    agent, other = await caller.enrol("a", tool("add")), await caller.enrol("b")
    over = await caller.enrol("c")
    await caller.ask("stop", Nothing(), over.id)
    for method, path in (("GET", "tools"), ("POST", "tools/add"), ("GET", "messages"), ("POST", "entries")):
        for headers in ({}, {"authorization": "Bearer x"}, {"authorization": agent.token}, bearer(other)):
            answer = await http.request(method, f"{agent.url}/{path}", headers=headers)
            assert code(answer) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        ended = await http.request(method, f"{over.url}/{path}", headers=bearer(over))
        assert code(ended) == (403, "agent-ended")
        unknown = await http.request(method, f"{gateway.url}/agents/a_{'0' * 26}/{path}", headers=bearer(agent))
        assert code(unknown) == (401, "unauthorized")
    assert 'regrow_agent_refusals_total{code="unauthorized"}' in gateway.metrics()
    assert await caller.conversation(agent.id) == []


async def test_errors_are_json_and_say_what_to_do(caller: Caller, http: httpx.AsyncClient) -> None:
    """Unknown tools, arguments that do not fit, no JSON, too much of it, wrong methods, paths and numbers."""
    agent = await caller.enrol("a", tool("add", a="integer", b="integer"))

    async def post(path: str, **more: Any) -> httpx.Response:
        return await http.post(f"{agent.url}/{path}", headers=bearer(agent, **more.pop("headers", {})), **more)

    answer = await post("tools/substract", json={})
    assert code(answer) == (404, "tool-not-found")
    assert "add" in answer.json()["error"]["message"]
    answer = await post("tools/add", json={"a": "one"})
    assert code(answer) == (400, "invalid-arguments")
    assert "'a' must be an integer" in answer.json()["error"]["message"]
    assert "'b' is missing" in answer.json()["error"]["message"]
    for body in (b"{", b"[1]", b"\xff", b"[" * 100_000, b'"a"'):
        assert code(await post("tools/add", content=body)) == (400, "invalid-request")
    assert code(await post("tools/add", content=b" " * (8 * 1024 * 1024 + 1))) == (413, "too-large")
    assert code(await post("tools/add", json={}, headers={"regrow-call": "a b"})) == (400, "invalid-request")
    assert code(await post("entries", json={"type": "message", "data": {}})) == (400, "invalid-request")
    assert code(await post("entries", json={"type": "usage", "data": {"input": "many"}})) == (400, "invalid-request")
    for path, status in (("tools/add", 405), ("nothing", 404), ("messages?after=x", 400), ("tools?session=7", 409)):
        answer = await http.get(f"{agent.url}/{path}", headers=bearer(agent))
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
    assert await caller.conversation(agent.id, "call", "usage") == []


async def test_what_a_tool_raises_reaches_the_agent_as_text(rt: Runtime, http: httpx.AsyncClient) -> None:
    """And a repeat of the call gets the same, without the tool being run again."""
    process, _, agent = await owned(rt)
    headers = bearer(agent) | {"regrow-call": "one"}
    for _ in range(2):
        answer = await http.post(f"{agent.url}/tools/fault", json={"why": "no paper"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["message"]) == (422, "ValueError: no paper")
    other = await http.post(f"{agent.url}/tools/echo", json={"text": "hi"}, headers=headers)
    assert other.json() == answer.json(), "the call of this id was answered"
    assert await process.call("called") == [["fault", "no paper"]]


async def test_large_values_go_both_ways(rt: Runtime, http: httpx.AsyncClient) -> None:
    """Arguments, results and pages of the conversation that fit into no message."""
    _, caller, agent = await owned(rt)
    text = "ä" * 1_000_000
    for _ in range(2):
        headers = bearer(agent) | {"regrow-call": "large"}
        answer = await http.post(f"{agent.url}/tools/echo", json={"text": text}, headers=headers)
        assert (answer.status_code, answer.json()) == (200, text)
    seq = await caller.ask("send", Send(text), agent.id)
    (got,) = (await http.get(f"{agent.url}/messages", headers=bearer(agent))).json()["messages"]
    assert (got["seq"], got["text"]) == (seq, text)


async def test_a_call_that_takes_long_can_be_asked_for_again(rt: Runtime, http: httpx.AsyncClient) -> None:
    """After `wait` seconds the answer is 202; the same call then waits on, and nothing is done twice."""
    process, _, agent = await owned(rt)
    headers = bearer(agent)
    answer = await http.post(f"{agent.url}/tools/patient?wait=1", json={"seconds": 100}, headers=headers)
    assert answer.status_code == 202
    headers["regrow-call"] = answer.json()["call"]
    asking = asyncio.create_task(http.post(f"{agent.url}/tools/patient", json={"seconds": 100}, headers=headers))
    await process.call("release")
    answer = await asking
    assert (answer.status_code, answer.json()) == (200, "done")
    assert await process.call("called") == [["patient", 100]]


async def test_messages_are_polled_or_streamed_after_a_sequence(caller: Caller, http: httpx.AsyncClient) -> None:
    """Each has its sequence, from which the next request goes on; a stream hears of new ones and of the end."""
    agent = await caller.enrol("a")
    url, headers = f"{agent.url}/messages", bearer(agent)
    assert (await http.get(url, headers=headers)).json() == {"messages": [], "last": 0}
    first = await caller.ask("send", Send("one", sender="boss"), agent.id)
    got = (await http.get(url, headers=headers)).json()
    assert got["last"] == first
    assert [(m["seq"], m["text"], m["sender"]) for m in got["messages"]] == [(first, "one", "boss")]
    polling = asyncio.create_task(http.get(f"{url}?after={first}&wait=20", headers=headers))
    second = await caller.ask("send", Send("two"), agent.id)
    assert [m["seq"] for m in (await polling).json()["messages"]] == [second]
    events: list[tuple[str, str]] = []
    async with http.stream(
        "GET", url, headers=headers | {"accept": "text/event-stream", "last-event-id": str(first)}
    ) as stream:
        lines = stream.aiter_lines()
        kind = ""
        async for line in lines:
            name, _, value = line.partition(": ")
            kind = value if name == "event" else kind
            if name == "data":
                events.append((kind, json.loads(value).get("text", "")))
            if len(events) == 1 and name == "data":
                await caller.ask("send", Send("three"), agent.id)
            if len(events) == 2 and name == "data":
                await caller.ask("stop", Nothing(), agent.id)
    assert events == [("message", "two"), ("message", "three"), ("ended", "")]


async def test_a_thousand_messages_are_handed_out_in_their_order(caller: Caller, http: httpx.AsyncClient) -> None:
    """In pages, none twice and none left out."""
    agent = await caller.enrol("a")
    sent = [await caller.send(caller.command("send", Send(str(n))), agent.id) for n in range(300)]
    seqs = sorted([await caller.answer(each) for each in sent])
    got: list[int] = []
    while len(got) < len(seqs):
        page = (await http.get(f"{agent.url}/messages?after={got[-1] if got else 0}", headers=bearer(agent))).json()
        got += [m["seq"] for m in page["messages"]]
    assert got == seqs


async def test_usage_is_summed_once_however_often_it_is_told(caller: Caller, http: httpx.AsyncClient) -> None:
    """Entries with an id stand once."""
    agent = await caller.enrol("a")
    usage = [{"type": "usage", "id": f"u{n}", "data": {"model": "m", "input": n, "cost": 0.5}} for n in range(5)]
    for _ in range(2):
        answer = await http.post(f"{agent.url}/entries", json=usage, headers=bearer(agent))
        assert answer.status_code == 200
    record = await caller.ask("describe", Nothing(), agent.id)
    assert (record.usage.input, record.usage.cost, record.usage.model) == (10, 2.5, "m")
    await caller.ask("describe", Nothing(), agent.id)
    assert (await caller.record(agent.id)).usage == record.usage


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
async def test_a_shell_script_with_curl_is_an_agent(rt: Runtime, tmp_path: Path) -> None:
    """It waits for a message, calls a tool with it, and tells what it has done."""
    script = tmp_path / "agent.sh"
    script.write_text(
        """
set -eu
ask() { curl --silent --fail-with-body -H "Authorization: Bearer $REGROW_AGENT_TOKEN" "$@"; }
text=$(ask "$REGROW_AGENT_URL/messages?wait=20" | sed 's/.*"text":"\\([^"]*\\)".*/\\1/')
said=$(ask "$REGROW_AGENT_URL/tools/echo" -d "{\\"text\\":\\"$text\\"}")
ask "$REGROW_AGENT_URL/entries" -d "{\\"type\\":\\"text\\",\\"data\\":{\\"text\\":$said}}" >/dev/null
echo "$said"
"""
    )
    process, caller, agent = await owned(rt)
    env = os.environ | {"REGROW_AGENT_URL": agent.url, "REGROW_AGENT_TOKEN": agent.token}
    running = await asyncio.create_subprocess_exec("sh", str(script), stdout=subprocess.PIPE, env=env)
    await caller.ask("send", Send("water the plants"), agent.id)
    out, _ = await running.communicate()
    assert (running.returncode, out.decode().strip()) == (0, '"water the plants"')
    assert await process.call("called") == [["echo", "water the plants"]]
    assert sorted(await caller.types(agent.id, 5)) == ["call", "message", "registered", "result", "text"]
