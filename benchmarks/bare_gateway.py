"""What a tool call costs without Regrow: a server that answers each call with its argument, and forgets it.

    python benchmarks/bare_gateway.py

Its library and settings are those of the agent-gateway's doors (uvicorn, websockets, starlette, uvloop), its frames are
those of the WebSocket door. It writes its port as a line, and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import msgspec
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.encode


async def _calls(connection: WebSocket) -> None:
    await connection.accept()
    await connection.send_text('{"type":"hello"}')
    while (received := await connection.receive())["type"] != "websocket.disconnect":
        frame = _decode(received["text"])
        answer = {"type": "result", "id": frame["id"], "value": frame["args"]["v"]}
        await connection.send_text(_encode(answer).decode())


async def _call(request: Request) -> Response:
    return Response(_encode(_decode(await request.body())["v"]), media_type="application/json")


async def _tools(_: Request) -> Response:
    return Response(b'{"tools":[]}', media_type="application/json")


async def main() -> None:
    """Serve."""
    routes = [WebSocketRoute("/ws", _calls), Route("/tools/echo", _call, methods=["POST"]), Route("/tools", _tools)]
    options: dict[str, Any] = {
        "ws": "websockets-sansio",
        "http": "h11",
        "loop": "none",
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "date_header": False,
        "ws_per_message_deflate": False,
    }
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), **options))
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    serving = asyncio.create_task(server.serve([listening]))
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    uvloop.run(main())
