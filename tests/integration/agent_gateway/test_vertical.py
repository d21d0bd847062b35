"""From an agent to a process and back."""

from __future__ import annotations

import httpx
from gateway_bodies import owner
from gatewaykit import Caller, tool
from regrow.testing import Runtime
from regrow.testing.gateways import Gateway


async def test_a_tool_call_reaches_its_process_and_its_answer_the_agent(
    gateway: Gateway, rt: Runtime, http: httpx.AsyncClient
) -> None:
    """A request to the plain door runs the tool in the owner, and is answered with its result."""
    process = await rt.start(owner)
    caller = Caller(rt.bus, rt.app, process.pid)
    agent = await caller.enrol("worker", tool("add", a="integer", b="integer"))
    await process.call("serve", agent=agent.id, tools=["add"], wait=True)
    headers = {"authorization": f"Bearer {agent.token}"}
    assert agent.url == f"{gateway.url}/agents/{agent.id}"
    listed = (await http.get(f"{agent.url}/tools", headers=headers)).json()
    assert [each["name"] for each in listed["tools"]] == ["add"]
    answer = await http.post(f"{agent.url}/tools/add", json={"a": 2, "b": 3}, headers=headers)
    assert (answer.status_code, answer.json()) == (200, 5), answer.text
    again = await http.post(
        f"{agent.url}/tools/add",
        json={"a": 2, "b": 3},
        headers={**headers, "regrow-call": answer.headers["regrow-call"]},
    )
    assert again.json() == 5
    assert await process.call("called") == [["add", 2, 3]]
    assert await caller.types(agent.id, 3) == ["registered", "call", "result"]
