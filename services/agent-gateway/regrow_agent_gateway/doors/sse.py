"""Messages to an agent as server-sent events, for as long as it listens.

Events are `message` (its id is the sequence to resume after), `tools` (what the agent may call has changed), `ended`
and `bye` (this gateway stops: come again, elsewhere).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from regrow_protocol import messages
from starlette.responses import StreamingResponse

from ..context import Context
from ..errors import AgentError
from ..measures import CONNECTIONS, MESSAGES
from .telling import message
from .waiting import first

if TYPE_CHECKING:
    from ..desk import Desk
    from ..mail import Mail
    from .access import Visitor


def event(type_: str, data: Any, id_: int = 0) -> bytes:
    """One server-sent event."""
    head = f"id: {id_}\n" if id_ else ""
    return f"{head}event: {type_}\ndata: ".encode() + messages.encode(data) + b"\n\n"


def stream(context: Context, desk: Desk, mail: Mail, visitor: Visitor, after: int) -> StreamingResponse:
    """The answer to a request for events after a sequence."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(
        _events(context, desk, mail, visitor, after), media_type="text/event-stream", headers=headers
    )


async def _events(context: Context, desk: Desk, mail: Mail, visitor: Visitor, after: int) -> AsyncIterator[bytes]:
    agent, _ = visitor
    told, heartbeat = context.metrics[MESSAGES].labels("sse"), context.settings.gateway_heartbeat
    with context.metrics[CONNECTIONS].labels("sse").track_inprogress(), desk.changed(agent.id) as changed:
        async with mail.box(agent) as box:
            yield b": the doors of " + agent.id.encode() + b"\n\n"
            tools = desk.tools(agent)
            while not context.stopping.is_set():
                box.arrived.clear()
                found = await box.after(after)
                for entry in found:
                    after = entry.seq
                    told.inc()
                    yield event("message", message(entry), entry.seq)
                if not found and not await first(box.arrived, changed, context.stopping, timeout=heartbeat):
                    yield b":\n\n"
                if changed.is_set():
                    changed.clear()
                    try:
                        agent = desk.still(agent)
                    except AgentError as error:
                        yield event("ended", {"reason": error.message})
                        return
                    if tools != (tools := desk.tools(agent)):
                        yield event("tools", {"tools": tools})
            yield event("bye", {"reason": "this gateway stops"})
