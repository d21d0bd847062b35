"""What MCP clients may ask for: the agent's tools, calls of them, and to hear when they change."""

from __future__ import annotations

from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    DiscoverResult,
    ListToolsResult,
    NotificationParams,
    PaginatedRequestParams,
    RequestParams,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    TextContent,
    Tool,
    ToolListChangedNotification,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, is_version_at_least
from msgspec import Raw
from regrow_protocol import messages
from regrow_protocol.agents import AgentRecord, Outcome
from regrow_protocol.errors import RegrowError
from regrow_service.logs import get_logger

from ..calls import text_of
from ..context import Context
from ..desk import Desk
from ..errors import AgentError
from .mcp_calls import Incoming
from .waiting import first

NAME = "regrow"
VISIT = "regrow.visit"
"""Key of the `Incoming` in a request's ASGI scope."""
PRIMED = "2025-11-25"
"""From this version on the first event of an answer may be empty, for the sake of its id."""
CHANGED = NotificationOptions(tools_changed=True)
LOST = "The connection broke before this call was recorded: nothing was done. Make it again."

_log = get_logger("doors")

Request = ServerRequestContext[Any, Any]


def make_server(context: Context, desk: Desk) -> Server[Any]:
    """The server of all agents; who asks is in the scope of the request, under `VISIT`."""

    async def list_tools(request: Request, params: PaginatedRequestParams | None) -> ListToolsResult:
        del params
        return ListToolsResult(tools=tools(desk, _incoming(request).visitor.agent))

    async def call_tool(request: Request, params: CallToolRequestParams) -> CallToolResult:
        made = _incoming(request)
        if not made.call:
            raise MCPError(INVALID_PARAMS, "a call needs an id, and its _meta must be an object")
        progress = _Progress(request)
        if not is_version_at_least(request.protocol_version, PRIMED):
            await progress(0)  # its event has an id by which the answer can be asked for
        try:
            outcome = await desk.call(
                made.visitor.agent,
                session=made.session,
                call=made.call,
                tool=params.name,
                args=params.arguments or {},
                on_wait=progress,
            )
        except RegrowError as error:
            return refused(error)
        return answered(outcome)

    async def listen(request: Request, params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        agent = _incoming(request).visitor.agent
        meta = {SUBSCRIPTION_ID_META_KEY: request.request_id}
        told = SubscriptionFilter(tools_list_changed=True if params.notifications.tools_list_changed else None)
        ack = SubscriptionsAcknowledgedNotificationParams(notifications=told, _meta=meta)
        here = request.request_id
        with desk.changed(agent.id) as changed:
            known = tools(desk, agent)
            await request.session.send_notification(SubscriptionsAcknowledgedNotification(params=ack), here)
            while not context.stopping.is_set():
                await first(changed, context.stopping)
                changed.clear()
                try:
                    agent = desk.still(agent)
                except AgentError:
                    break
                if told.tools_list_changed and known != (known := tools(desk, agent)):
                    note = ToolListChangedNotification(params=NotificationParams(_meta=meta))
                    await request.session.send_notification(note, here)
        return SubscriptionsListenResult(_meta=meta)

    server: Server[Any] = Server(NAME, on_list_tools=list_tools, on_call_tool=call_tool, on_subscriptions_listen=listen)

    async def discover(request: Request, params: RequestParams | None) -> DiscoverResult:
        del request, params
        return DiscoverResult(
            supported_versions=[*reversed(HANDSHAKE_PROTOCOL_VERSIONS)], capabilities=server.get_capabilities(CHANGED)
        )

    server.add_request_handler("server/discover", RequestParams, discover)
    server.middleware.clear()  # it only traces, at a cost per message
    return server


def options(server: Server[Any]) -> InitializationOptions:
    """What `initialize` is answered with."""
    return server.create_initialization_options(CHANGED)


def tools(desk: Desk, agent: AgentRecord) -> list[Tool]:
    """What an agent may call now."""
    try:
        agent = desk.still(agent)
    except AgentError:
        return []
    return [
        Tool(name=each.name, description=each.description, input_schema=messages.decode(each.schema, dict[str, Any]))
        for each in desk.tools(agent)
    ]


def answered(outcome: Outcome) -> CallToolResult:
    """The outcome of a call as a client gets it: text, which is the result's JSON where it is not a string."""
    if outcome.error is not None:
        return _text(text_of(outcome.error), failed=True)
    value = outcome.value if isinstance(outcome.value, Raw) else Raw(b"null")
    plain = bytes(value)
    return _text(messages.decode(value, str) if plain.startswith(b'"') else plain.decode())


def refused(error: RegrowError) -> CallToolResult:
    """What could not be called, in words for a model: an answer like any; errors of the protocol are for programs."""
    if not isinstance(error, AgentError):
        _log.warning("a call of an agent is to be made again", reason=str(error))
    return _text(str(error), failed=True)


def lost() -> CallToolResult:
    """The answer to a call that nobody knows."""
    return _text(LOST, failed=True)


def _text(text: str, *, failed: bool = False) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=failed)


def _incoming(request: Request) -> Incoming:
    assert request.request is not None, "it came over HTTP"
    return request.request.scope[VISIT]


class _Progress:
    """Tells a client that its call waits, if it wants to know: many begin their time-outs anew then."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._token = (request.meta or {}).get("progress_token")

    async def __call__(self, seconds: float) -> None:
        if self._token is None:
            return
        message = f"waiting for {seconds:.0f} s" if seconds else "called"
        await self._request.session.send_progress_notification(
            self._token, seconds, message=message, related_request_id=str(self._request.request_id)
        )
