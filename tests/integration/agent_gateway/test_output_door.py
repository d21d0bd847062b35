"""The door of turn-based harnesses' drivers: what a program says, and what a turn that was cut off had called."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from agentkit import bearer, owned
from gatewaykit import Caller
from regrow.testing import Runtime
from regrow_protocol.agents import Enrol, Enrolled

pytestmark = pytest.mark.usefixtures("gateway")

SAID = {"type": "assistant", "message": {"content": [{"type": "text", "text": "Hello."}]}}
USED = {"type": "result", "subtype": "success", "usage": {"input_tokens": 11, "output_tokens": 7}}


async def test_what_a_program_says_becomes_entries_once(caller: Caller, http: httpx.AsyncClient) -> None:
    """However often it is told; a person reads the answer."""
    agent: Enrolled = await caller.ask("enrol", Enrol(name="worker", harness="claude-code"))
    url, headers = f"{agent.url}/output", bearer(agent)
    for _ in range(2):
        answer = await http.post(f"{url}?id=1.1.1", json=SAID, headers=headers)
        assert (answer.status_code, answer.text) == (200, "Hello.\n")
        assert (await http.post(f"{url}?id=1.1.2", json=USED, headers=headers)).text == ""
    told = [(e.type, msgspec.json.decode(e.data)) for e in await caller.conversation(agent.id, "text", "usage")]
    assert told == [("text", {"text": "Hello."}), ("usage", {"input": 11, "output": 7})]


async def test_what_cannot_be_understood_is_refused(caller: Caller, http: httpx.AsyncClient) -> None:
    """A line without an id, no object, of a harness that does not speak so, and of nobody."""
    agent: Enrolled = await caller.ask("enrol", Enrol(name="worker", harness="claude-code"))
    other = await caller.enrol("other")

    async def status(line: Any, query: str = "?id=1", of: Enrolled = agent) -> int:
        return (await http.post(f"{of.url}/output{query}", json=line, headers=bearer(of))).status_code

    assert await status(SAID, "") == 400
    assert await status([]) == 400
    assert await status(SAID, of=other) == 400
    assert (await http.post(f"{agent.url}/output?id=1", json=SAID)).status_code == 401
    assert await status(SAID) == 200


async def test_a_turn_that_was_cut_off_is_told_what_it_had_called(rt: Runtime, http: httpx.AsyncClient) -> None:
    """What was answered, what failed, what is under way; nothing of turns that have ended."""
    process, _, agent = await owned(rt)
    headers = bearer(agent)

    async def turn(state: str) -> None:
        await http.post(f"{agent.url}/entries", json={"type": "turn", "data": {"state": state}}, headers=headers)

    async def call(tool: str, **args: Any) -> None:
        await http.post(f"{agent.url}/tools/{tool}", json=args, headers=headers)

    async def recalled() -> str:
        answer = await http.get(f"{agent.url}/output", headers=headers)
        assert answer.status_code == 200
        return answer.text

    async def recalled_with(text: str) -> str:
        async with asyncio.timeout(30):
            while text not in (told := await recalled()):  # who is answered hears of it before it is stored
                await asyncio.sleep(0.01)
        return told

    assert await recalled() == ""
    await turn("started")
    await call("echo", text="old")
    await turn("ended")
    assert await recalled() == ""
    await turn("started")
    assert await recalled() == ""
    await call("add", a=2, b=3)
    await call("fault", why="no paper")
    waiting = asyncio.ensure_future(call("patient", seconds=30))
    while len(await process.call("called")) < 4:
        await asyncio.sleep(0.01)
    await recalled_with("it failed")
    lines = (await recalled_with("it answered")).splitlines()
    assert [line for line in lines if line.startswith("- add")] == ['- add {"a":2,"b":3}: it answered 5']
    assert any(line.startswith("- fault") and "it failed: ValueError: no paper" in line for line in lines)
    assert '- patient {"seconds":30}: it has not answered yet' in lines
    assert "old" not in "".join(lines)
    waiting.cancel()
