"""A process that owns the agents of the chaos tests: its tool tells which run of it was counted."""

from __future__ import annotations

import asyncio
import uuid

from regrow import agent_process, expose, scope, step


async def effect(n: int) -> str:
    """A side effect: no two runs of it return the same."""
    await asyncio.sleep(0.02)
    return f"{n}:{uuid.uuid4().hex}"


@agent_process
async def owner() -> None:
    """Serves the tool `work` to each agent that it is told of, and counts its calls."""
    calls: list[list[object]] = []

    @expose
    async def serve(agents: list[str]) -> None:
        for agent in agents:
            scope.current().expose(tool_of(agent), f"{agent}/work")

    def tool_of(agent: str) -> object:
        async def work(n: int) -> str:
            calls.append([agent, n])
            return await step(effect, n)

        return work

    @expose
    async def called() -> list[list[object]]:
        return calls

    await asyncio.Event().wait()
