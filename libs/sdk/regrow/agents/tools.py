"""The tools of one agent: endpoints of its owner that the gateway is told of.

What is registered in one turn is told in one command, and before any message that is sent after it. A command is
compared on replay by the tools' names only: a better description is no other program.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from regrow_protocol.agents import Tool, Tools, agent_subject, tool_endpoint

from .. import scope
from ..errors import InvalidArguments, ProcessGone
from ..tool_schema import tool_of

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def checked(function: Any, name: str, timeout: float | None) -> None:
    """Raises InvalidArguments, TypeError or ValueError for what can be no tool."""
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"a tool is an async function; {name or function!r} is not one")
    if not _NAME.fullmatch(name):
        raise InvalidArguments(f"{name!r} is no name of a tool", hint="1 to 64 of letters, digits, - and _")
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout must be positive seconds, or None: {timeout}")


def compared(tools: list[Tool]) -> bytes:
    """What of tools a replay must make again."""
    return " ".join(tool.name for tool in tools).encode()


def limited(function: Callable[..., Coroutine[Any, Any, Any]], name: str, timeout: float | None) -> Any:
    """The function, cancelled after `timeout` seconds."""
    if timeout is None:
        return function

    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await function(*args, **kwargs)
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"{name}() has not answered within {timeout:g} s and was given up") from None
            raise

    return run


class ToolTable:
    """Of one agent."""

    def __init__(self) -> None:
        self._functions: dict[str, Any] = {}
        self._tools: dict[str, Tool] = {}
        self._agent = ""
        self._app = ""
        self._told = True
        self.version = 0

    @property
    def tools(self) -> list[Tool]:
        """By the order of their registration."""
        return list(self._tools.values())

    def add(self, function: Any, name: str, timeout: float | None) -> None:
        """Register a tool; one of the same name is replaced."""
        self._tools[name] = tool_of(function, name)
        self._functions[name] = limited(function, name, timeout)
        if self._agent:
            self._serve(name)
            if self._told:
                self._told = False
                asyncio.get_running_loop().call_soon(self._flush)

    def enrolled(self, agent: str, app: str) -> None:
        """The agent is there, and knows the tools so far."""
        self._agent, self._app = agent, app
        for name in self._functions:
            self._serve(name)

    def _serve(self, name: str) -> None:
        scope.current().expose(self._functions[name], tool_endpoint(self._agent, name))

    def _flush(self) -> None:
        with suppress(ProcessGone):
            self.tell()

    def tell(self) -> int:
        """Tell the gateway what it does not know yet; the version that it then has."""
        if not self._told:
            self._told = True
            self.version += 1
            args, subject = Tools(self.version, self.tools), agent_subject(self._app, self._agent)
            scope.current().tell("agent.tools", subject, args, compared=compared(self.tools))
        return self.version
