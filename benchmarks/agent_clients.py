"""Agents as programs outside see themselves: calls over each door of the gateway, with as little as each needs."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent
from websockets.asyncio.client import ClientConnection, connect

TOOL = "echo"
Call = Callable[[int], Awaitable[int]]
"""Calls the tool with a number, which is answered."""


class Socket:
    """An agent over a WebSocket; calls may run side by side. Make it with `over_websocket`.

    Attributes:
        heard: texts of the messages to the agent.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self._connection = connection
        self._numbers = itertools.count(1)
        self._calls: dict[str, asyncio.Future[int]] = {}

    async def call(self, value: int) -> int:
        """Call the tool."""
        id_ = f"c{next(self._numbers)}"
        future = self._calls[id_] = asyncio.get_running_loop().create_future()
        frame = {"type": "call", "id": id_, "tool": TOOL, "args": {"v": value}}
        await self._connection.send(msgspec.json.encode(frame).decode())
        return await future

    async def listen(self) -> None:
        """Take what comes, until the connection ends."""
        async for text in self._connection:
            frame = msgspec.json.decode(text)
            if frame["type"] == "result":
                self._calls.pop(frame["id"]).set_result(frame["value"])
            elif frame["type"] == "message":
                self.heard.put_nowait(frame["text"])


@asynccontextmanager
async def over_websocket(url: str, token: str) -> AsyncGenerator[Socket]:
    """An agent that is connected."""
    address = f"ws{url.removeprefix('http')}/ws"
    headers = {"authorization": f"Bearer {token}"}
    async with connect(address, additional_headers=headers, compression=None, proxy=None) as connection:
        await connection.recv()  # hello
        socket = Socket(connection)
        listening = asyncio.create_task(socket.listen())
        try:
            yield socket
        finally:
            listening.cancel()


@asynccontextmanager
async def over_http(url: str, token: str) -> AsyncGenerator[Call]:
    """Requests on one connection, one at a time, without a library: most take longer than the call itself."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = (
        f"POST {parts.path}/tools/{TOOL} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()

    async def call(value: int) -> int:
        body = b'{"v":%d}' % value
        writer.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        assert lines[0].split()[1] == b"200", lines
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
        return json.loads(await reader.readexactly(length))

    try:
        yield call
    finally:
        writer.close()


@asynccontextmanager
async def over_mcp(url: str, token: str) -> AsyncGenerator[Call]:
    """The official client."""
    headers = {"authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30.0, trust_env=False) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), cache=None) as client,
    ):

        async def call(value: int) -> int:
            result: Any = await client.call_tool(TOOL, {"v": value})
            (content,) = result.content
            assert isinstance(content, TextContent)
            return int(content.text)

        yield call
