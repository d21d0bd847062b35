"""Clients of the MCP door: the official one, and requests made by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import agentkit
import httpx
import httpx2
import msgspec
from gatewaykit import Caller
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent
from regrow.client import RemoteProcess
from regrow.testing import Runtime
from regrow_protocol.agents import Enrolled

HANDSHAKE = "2025-11-25"
ACCEPT = "application/json, text/event-stream"


class Owned:
    """An agent that comes by itself, and the process that owns it."""

    def __init__(self, process: RemoteProcess, caller: Caller, enrolled: Enrolled) -> None:
        self.process, self.caller, self.enrolled = process, caller, enrolled

    async def called(self) -> list[Any]:
        """What its tools were called, in order."""
        return await self.process.call("called")

    async def release(self) -> None:
        """Have all calls of `patient` answered, those that come later too."""
        await self.process.call("release")


async def owned(rt: Runtime, **more: Any) -> Owned:
    """An agent whose owner serves all tools."""
    return Owned(*await agentkit.owned(rt, **more))


@asynccontextmanager
async def connected(agent: Enrolled, url: str = "", **options: Any) -> AsyncIterator[Client]:
    """The official client, with an agent's token; `options` are its own."""
    headers = {"authorization": f"Bearer {agent.token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=45.0, trust_env=False) as http:
        transport = streamable_http_client(f"{url or agent.url}/mcp", http_client=http)
        async with Client(transport, read_timeout_seconds=50.0, cache=None, **options) as client:
            yield client


def said(result: CallToolResult) -> str:
    """The text of a result that is no error."""
    assert not result.is_error, result
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def complaint(result: CallToolResult) -> str:
    """The text of a result that is an error."""
    assert result.is_error, result
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


class ByHand:
    """Requests to the MCP door, each as it is told."""

    def __init__(self, http: httpx.AsyncClient, agent: Enrolled, session: str = "") -> None:
        self._http, self._agent = http, agent
        self._headers = {
            "authorization": f"Bearer {agent.token}",
            "accept": ACCEPT,
            "content-type": "application/json",
            "mcp-protocol-version": HANDSHAKE,
        }
        if session:
            self._headers["mcp-session-id"] = session

    async def post(self, body: bytes, **headers: str) -> httpx.Response:
        """A message."""
        return await self._http.post(
            f"{self._agent.url}/mcp", content=body, headers={**self._headers, **_named(headers)}
        )

    async def call(self, id_: int | str, tool: str, args: Any, **meta: Any) -> Any:
        """A call of a tool; its result."""
        params = {"name": tool, "arguments": args, "_meta": {key.replace("__", "/"): meta[key] for key in meta}}
        body = {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}
        answer = await self.post(msgspec.json.encode(body))
        assert answer.status_code == 200, answer.text
        (message,) = [data for _, data in events(answer.text) if data]
        assert message["id"] == id_
        return message["result"]

    async def rest(self, last: str) -> list[tuple[str, Any]]:
        """What comes after an event, to its end."""
        answer = await self._http.get(f"{self._agent.url}/mcp", headers={**self._headers, "last-event-id": last})
        return events(answer.text)


def events(text: str) -> list[tuple[str, Any]]:
    """Ids and data of server-sent events."""
    found: list[tuple[str, Any]] = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "id" in fields:
            found.append((fields["id"], msgspec.json.decode(fields["data"]) if fields.get("data") else None))
    return found


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {key.replace("_", "-"): value for key, value in headers.items()}
