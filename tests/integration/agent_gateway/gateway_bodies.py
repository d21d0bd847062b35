"""Processes that own agents in these tests."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from regrow import agent_process, emit, expose, scope


@agent_process
async def owner(slow: float = 0.0) -> None:
    """Serves tools under the names that it is told, counts what they are called, and tells the news.

    `patient` waits for so many seconds, or until `release` is called.
    """
    ended, released = asyncio.Event(), asyncio.Event()
    calls: list[Any] = []

    @expose
    async def serve(agent: str, tools: list[str]) -> None:
        async def news(what: str, session: int, data: Any = None) -> None:
            emit("news", {"what": what, "session": session, "data": data})

        async def add(a: int, b: int) -> int:
            calls.append(["add", a, b])
            return a + b

        async def echo(text: str) -> str:
            calls.append(["echo", text])
            return text

        async def fault(why: str) -> None:
            calls.append(["fault", why])
            raise ValueError(why)

        async def patient(seconds: float) -> str:
            calls.append(["patient", seconds])
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await released.wait()
            return "done"

        known = {"add": add, "echo": echo, "fault": fault, "patient": patient}
        scope.current().expose(news, f"{agent}/")
        for name in tools:
            scope.current().expose(known[name], f"{agent}/{name}")

    @expose
    async def called() -> list[Any]:
        return calls

    @expose
    async def release() -> None:
        released.set()

    @expose
    async def finish() -> None:
        ended.set()

    await ended.wait()
