"""The doors' ASGI app: what is where."""

from __future__ import annotations

from regrow_protocol.errors import RegrowError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from ..errors import InvalidRequest
from .answering import answering, json
from .http import HttpDoor
from .mcp_on_demand import McpOnDemand
from .output import OutputDoor
from .websocket import WebSocketDoor


def make_app(http: HttpDoor, websocket: WebSocketDoor, mcp: McpOnDemand, output: OutputDoor) -> Starlette:
    """The app with its doors."""
    agent = "/agents/{agent}"
    routes: list[BaseRoute] = [
        WebSocketRoute(f"{agent}/ws", websocket.serve),
        Route(f"{agent}/tools", answering(http.tools), methods=["GET"]),
        Route(f"{agent}/tools/{{tool}}", answering(http.call), methods=["POST"]),
        Route(f"{agent}/messages", answering(http.messages), methods=["GET"]),
        Route(f"{agent}/entries", answering(http.entries), methods=["POST"]),
        Route(f"{agent}/output", answering(output.recall), methods=["GET"]),
        Route(f"{agent}/output", answering(output.take), methods=["POST"]),
        Route(f"{agent}/mcp", answering(mcp.serve), methods=["GET", "POST", "DELETE"]),
        Route("/", _here, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _other})


async def _here(_: Request) -> Response:
    return json({"service": "regrow-agent-gateway"})


async def _other(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what: RegrowError = InvalidRequest(f"{request.method} {request.url.path[:200]}: {error.detail}")
    headers = dict(error.headers or {})
    return json({"error": {"code": what.code, "message": what.message}}, error.status_code, headers)
