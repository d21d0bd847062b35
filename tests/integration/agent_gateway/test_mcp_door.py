"""The MCP door with the official client: tools, calls, news of tools, progress, and who is let in."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from agentkit import TOOLS
from mcp_types import ToolListChangedNotification
from mcpkit import ByHand, Owned, complaint, connected, owned, said
from regrow.testing import Runtime
from regrow.testing.gateways import Gateway
from regrow_protocol.agents import Tools
from regrow_protocol.machines import Nothing


@pytest.fixture(scope="module")
def heartbeat() -> float:
    """Soon: clients hear often that their calls wait, and no WebSocket is open here."""
    return 0.25


@pytest_asyncio.fixture
async def agent(gateway: Gateway, rt: Runtime) -> Owned:
    """An agent whose owner serves all tools."""
    del gateway
    return await owned(rt)


@pytest.mark.parametrize("mode", ["auto", "2026-07-28"])
async def test_a_client_finds_and_calls_the_tools_of_its_agent(agent: Owned, mode: str) -> None:
    """Results are text; a string is itself, and all else its JSON."""
    async with connected(agent.enrolled, mode=mode) as client:
        assert client.protocol_version == (mode if mode != "auto" else "2025-11-25")
        listed = (await client.list_tools()).tools
        assert [(each.name, each.description) for each in listed] == [(each.name, each.description) for each in TOOLS]
        assert listed[0].input_schema["required"] == ["a", "b"]
        assert said(await client.call_tool("add", {"a": 2, "b": 3})) == "5"
        assert said(await client.call_tool("echo", {"text": 'é "x"\n'})) == 'é "x"\n'
    assert await agent.called() == [["add", 2, 3], ["echo", 'é "x"\n']]
    types = await agent.caller.types(agent.enrolled.id, 5)
    assert types == ["registered", "call", "result", "call", "result"]


async def test_errors_are_texts_that_an_agent_can_act_on(agent: Owned) -> None:
    """What its tool raises, a tool that is not there, arguments that do not fit."""
    async with connected(agent.enrolled) as client:
        assert "no paper" in complaint(await client.call_tool("fault", {"why": "no paper"}))
        assert "add, echo, fault, patient" in complaint(await client.call_tool("subtract", {"a": 1}))
        assert "a (an integer), b (an integer)" in complaint(await client.call_tool("add", {"a": "two", "b": 3}))
    assert await agent.called() == [["fault", "no paper"]]


async def test_a_client_that_wants_to_know_hears_that_its_call_waits(agent: Owned) -> None:
    """Progress grows with the seconds that a call has waited."""
    heard: list[float] = []
    twice = asyncio.Event()

    async def progress(done: float, total: float | None, message: str | None) -> None:
        del total
        assert message
        heard.append(done)
        if len(heard) == 2:
            twice.set()

    async with connected(agent.enrolled) as client:
        calling = asyncio.ensure_future(client.call_tool("patient", {"seconds": 100}, progress_callback=progress))
        async with asyncio.timeout(30):
            await twice.wait()
        await agent.release()
        assert said(await calling) == "done"
    assert heard == sorted(set(heard))


@pytest.mark.parametrize("mode", ["auto", "2026-07-28"])
async def test_a_connected_client_hears_that_its_tools_have_changed(agent: Owned, mode: str) -> None:
    """On the stream that it holds open, or by the subscription that newer clients make."""
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(message: Any) -> None:
        if isinstance(message, ToolListChangedNotification):
            await heard.put(message)

    async def names(client: Any) -> list[str]:
        return [each.name for each in (await client.list_tools()).tools]

    async with asyncio.timeout(45), connected(agent.enrolled, mode=mode, message_handler=handler) as client:
        if mode == "auto":
            await heard.get()  # its list may be older than its stream
            await agent.caller.ask("tools", Tools(1, [*TOOLS[:1]]), agent.enrolled.id)
            await heard.get()
            assert await names(client) == ["add"]
            return
        async with client.listen(tools_list_changed=True) as changes:
            await agent.caller.ask("tools", Tools(1, [*TOOLS[:1]]), agent.enrolled.id)
            async for _ in changes:
                break
            assert await names(client) == ["add"]


# Which call it is -----------------------------------------------------------------------------------------------------


async def test_a_call_that_is_repeated_is_carried_out_once(agent: Owned, http: httpx.AsyncClient) -> None:
    """By the model's own id of it, in whatever session; else by the number of the request in its session."""
    text = {"text": "once"}
    first, second, bare = (ByHand(http, agent.enrolled, session) for session in ("s1", "s2", ""))
    answers = await asyncio.gather(
        first.call(1, "echo", text, claudecode__toolUseId="toolu_1"),
        second.call(7, "echo", text, claudecode__toolUseId="toolu_1"),
        bare.call(9, "echo", text, claudecode__toolUseId="toolu_1"),
    )
    assert [each["content"][0]["text"] for each in answers] == ["once"] * 3
    assert await agent.called() == [["echo", "once"]]
    for each in (first, first, second):
        await each.call(3, "echo", text)
    await first.call("3", "echo", text)
    assert len(await agent.called()) == 4, "s1's 3, s2's 3 and s1's '3' are three calls"
    for _ in range(2):
        await bare.call(3, "echo", text)
    assert len(await agent.called()) == 6, "what has neither session nor id is new each time"
    await first.call(4, "echo", {"text": "twice"}, callId="toolu_1")
    await first.call(5, "add", {"a": 1, "b": 1}, callId="toolu_1")
    assert (await agent.called())[6:] == [["echo", "twice"], ["add", 1, 1]], "an id that is used again hides nothing"


async def test_an_answer_can_be_asked_for_by_its_event(agent: Owned, http: httpx.AsyncClient) -> None:
    """However often, by no other agent; what was never recorded is told to be made again."""
    client = ByHand(http, agent.enrolled, "s")
    params = {"name": "echo", "arguments": {"text": "x"}}
    body = {"jsonrpc": "2.0", "id": "a/b.c", "method": "tools/call", "params": params}
    answer = await client.post(msgspec.json.encode(body))
    (id_,) = {line.partition(": ")[2] for line in answer.text.splitlines() if line.startswith("id: ")}
    for _ in range(2):
        (primed, nothing), (same, message) = await client.rest(id_)
        assert (primed, nothing, same) == (id_, None, id_)
        assert (message["id"], message["result"]["content"][0]["text"]) == ("a/b.c", "x")
    assert await agent.called() == [["echo", "x"]]
    other = ByHand(http, await agent.caller.enrol("other", *TOOLS))
    message = (await other.rest(id_))[-1][1]
    assert message["result"]["isError"] is True
    assert "Make it again" in message["result"]["content"][0]["text"]


# Who is let in, and with what -----------------------------------------------------------------------------------------


async def test_only_the_agent_itself_is_let_in(agent: Owned, http: httpx.AsyncClient) -> None:
    """Not with no token, another agent's, a session that is over, nor after its end."""
    other = await agent.caller.enrol("other")
    url, own = f"{agent.enrolled.url}/mcp", f"Bearer {agent.enrolled.token}"

    async def status(method: str = "POST", **headers: str) -> int:
        return (await http.request(method, url, json={}, headers=headers)).status_code

    for method in ("GET", "POST", "DELETE"):
        assert await status(method) == 401
        assert await status(method, authorization=f"Bearer {other.token}") == 401
        assert await status(method, authorization=own.replace("rga_", "rga_0")) == 401
        assert await status(method, authorization=own, **{"regrow-session": "7"}) == 409
    await agent.caller.ask("stop", Nothing(), agent.enrolled.id)
    assert await status("POST", authorization=own) == 403
    assert await agent.called() == []


async def test_what_is_malformed_harms_nobody(agent: Owned, http: httpx.AsyncClient) -> None:
    """It is answered as an error, and the next request is served."""
    client = ByHand(http, agent.enrolled, "s")
    bodies = [
        b"", b"{", b"[]", b"null", b"7", b"[" * 5000, b'{"jsonrpc":"2.0"}', b"\xff\xfe",
        b'[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]',
        b'{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{"name":"echo"}}',
    ]  # fmt: skip
    for body in bodies:
        for version in ("2025-11-25", "2026-07-28", "1999-01-01"):
            answer = await client.post(body, mcp_protocol_version=version)
            assert answer.status_code in range(400, 500) or answer.content == b"", (body, version, answer.text)
    for params in (b"7", b'{"name":7}', b'{"name":"echo","_meta":7}', b'{"name":"echo","arguments":[]}'):
        answer = await client.post(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":%s}' % params)
        assert answer.status_code < 500, answer.text
        assert '"error"' in answer.text
    assert (await client.post(b" " * (8 * 1024 * 1024 + 1))).status_code == 413
    assert await agent.called() == []
    assert (await client.call(1, "echo", {"text": "still here"}))["content"][0]["text"] == "still here"
