"""The MCP door: an agent's tools for harnesses that speak the Model Context Protocol, over streamable HTTP.

It keeps no sessions: any replica answers any request, and one that has just started, too. What a session would be for
is done otherwise. A session's id is only a name, given at `initialize` and taken whatever it is, that tells apart calls
whose ids begin anew. Answers to calls come as events with ids, so a client whose connection broke (this replica was
killed, say) asks for the rest by `Last-Event-ID`, here or elsewhere, and gets the recorded answer (`mcp_streams`).

Protocol 2026-07-28 cannot resume an answer: a call of Claude Code's that was cut off hung until its time-out. So
`server/discover` names the versions with a handshake, which clients that speak both then take; requests of the newer
one are answered all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
from anyio.abc import TaskStatus
from mcp.server.connection import Connection
from mcp.server.runner import serve_connection
from mcp.server.streamable_http import (
    LAST_EVENT_ID_HEADER,
    MCP_SESSION_ID_HEADER,
    EventCallback,
    EventStore,
    StreamableHTTPServerTransport,
)
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.transport_context import TransportContext
from mcp_types import DEFAULT_NEGOTIATED_VERSION, JSONRPCMessage
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ..context import Context
from ..desk import Desk
from .access import admit
from .answering import whole
from .mcp_calls import Incoming, incoming
from .mcp_server import VISIT, make_server, options
from .mcp_streams import RETRY_MS, Streams, event_id


class McpDoor:
    """Of one gateway; it serves within `open`."""

    def __init__(self, context: Context, desk: Desk) -> None:
        self._here = context
        self._desk = desk
        self._server = make_server(context, desk)
        self._options = options(self._server)
        self._streams = Streams(context, desk)
        self._modern = StreamableHTTPSessionManager(
            self._server, stateless=True, max_request_body_size=context.settings.gateway_max_body
        )

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Serve until the block is left."""
        async with self._modern.run():
            yield

    async def serve(self, request: Request) -> Response:
        """Any request of a client."""
        visitor = await admit(self._desk, request)
        version = request.headers.get(MCP_PROTOCOL_VERSION_HEADER, DEFAULT_NEGOTIATED_VERSION)
        handshake = version in HANDSHAKE_PROTOCOL_VERSIONS
        if handshake and request.method == "DELETE":
            return Response()
        if handshake and request.method == "GET":
            return self._streams.answer(visitor.agent, version, request.headers.get(LAST_EVENT_ID_HEADER, ""))
        body = await whole(request, self._here.settings.gateway_max_body)
        made = incoming(visitor, body, request.headers.get(MCP_SESSION_ID_HEADER, ""))
        return _Exchange(self, made, body, version if handshake else None)

    async def exchange(self, made: Incoming, version: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        """One message of a client, and what it is answered; `version` None: one without a handshake."""
        scope[VISIT] = made
        stop = asyncio.ensure_future(self._here.stopping.wait())
        try:
            if version is None:
                await self._modern.handle_request(scope, receive, send)
            else:
                await self._legacy(made, version, stop, scope, receive, send)
        finally:
            stop.cancel()

    async def _legacy(
        self, made: Incoming, version: str, stop: asyncio.Future[Any], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """As `StreamableHTTPSessionManager` does it without sessions, but for the ids of events."""
        transport = StreamableHTTPServerTransport(
            None, event_store=_Ids(made) if made.key else None, retry_interval=RETRY_MS
        )

        async def serve(*, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
            async with transport.connect() as (reading, writing):
                dispatcher: JSONRPCDispatcher[TransportContext] = JSONRPCDispatcher(
                    reading,
                    writing,
                    inline_methods=frozenset({"initialize"}),
                    transport_builder=lambda _: TransportContext(kind="streamable-http", can_send_request=False),
                )
                connection = Connection.from_envelope(version, None, None)
                task_status.started()
                await serve_connection(
                    self._server, dispatcher, connection=connection, lifespan_state={}, init_options=self._options
                )

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start" and made.method == "initialize":
                name = (MCP_SESSION_ID_HEADER.encode(), uuid4().hex.encode())
                message = {**message, "headers": [*message["headers"], name]}
            await send(message)

        async def leave() -> None:
            await asyncio.wait([stop])
            await transport.terminate()  # the client asks another replica for the rest

        async with anyio.create_task_group() as group:
            try:
                await group.start(serve)
                group.start_soon(leave)
                await transport.handle_request(scope, receive, named)
            finally:
                with anyio.CancelScope(shield=True):
                    await transport.terminate()
            group.cancel_scope.cancel()


class _Exchange(Response):
    """Answers a request whose body was read."""

    def __init__(self, door: McpDoor, made: Incoming, body: bytes, version: str | None) -> None:
        super().__init__()
        self._door, self._made, self._body, self._version = door, made, body, version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": self._body, "more_body": False}

        await self._door.exchange(self._made, self._version, scope, again, send)


class _Ids(EventStore):
    """Gives the events of an answer to a call the id by which the rest of it is asked for; it stores nothing."""

    def __init__(self, made: Incoming) -> None:
        self._id = event_id(made)

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        del stream_id, message
        return self._id

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        raise NotImplementedError("`Streams` does that")
