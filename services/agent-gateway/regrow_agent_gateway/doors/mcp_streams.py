"""What MCP clients with a handshake GET: news of their tools, or the rest of an answer that was cut off.

A client that reconnects names the last event that it has seen. Of an answer to a call, every event has the id
`call.<key>.<id of the request>`: whichever replica is asked finds the recorded answer, or waits for it. Of the news, an
event's id is `tools.<digest>` of the tools as they were: a change while nobody listened is told at once. A client that
names none is told, too, since its list may be older than its stream.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, unquote

import msgspec
from mcp_types import methods
from mcp_types.version import is_version_at_least
from regrow_protocol import messages
from regrow_protocol.agents import AgentRecord
from regrow_protocol.errors import RegrowError
from starlette.responses import Response, StreamingResponse

from ..context import Context
from ..desk import Desk
from ..errors import AgentError
from ..measures import CONNECTIONS
from .mcp_calls import METHOD, Incoming
from .mcp_server import PRIMED, answered, lost, refused
from .waiting import first

RETRY_MS = 5000
"""After which a client whose connection broke comes again. Most try twice only: enough for a gateway's new start."""
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
HEADERS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}
_CALL = re.compile(r"call\.([0-9a-f]{32})\.([\x21-\x7e]{1,1000})")
_PING = b": here\n\n"


def event_id(made: Incoming) -> str:
    """By which the answer to a call is asked for."""
    return f"call.{made.key}.{quote(messages.encode(made.id), safe='')}"


class Streams:
    """Of one gateway."""

    def __init__(self, context: Context, desk: Desk) -> None:
        self._here = context
        self._desk = desk

    def answer(self, agent: AgentRecord, version: str, last: str) -> Response:
        """The answer to a GET.

        Args:
            agent: who asks.
            version: of its protocol.
            last: id of the last event that it has seen; empty: none.
        """
        primed = is_version_at_least(version, PRIMED)
        if found := _CALL.fullmatch(last):
            events = self._rest(agent, version, last, found[1], found[2], primed)
        else:
            events = self._news(agent, last, primed)
        return StreamingResponse(self._counted(events), media_type="text/event-stream", headers=HEADERS)

    async def _counted(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        with self._here.metrics[CONNECTIONS].labels("mcp").track_inprogress():
            async for event in events:
                yield event

    async def _news(self, agent: AgentRecord, last: str, primed: bool) -> AsyncIterator[bytes]:
        stopping = self._here.stopping
        with self._desk.changed(agent.id) as changed:
            known = f"tools.{self._digest(agent)}"
            if known != last:
                yield _event(CHANGED, known)
            else:
                yield _event(None, known) if primed else _PING
            while not stopping.is_set():
                if not await first(changed, stopping, timeout=self._here.settings.gateway_heartbeat):
                    yield _PING
                changed.clear()
                try:
                    agent = self._desk.still(agent)
                except AgentError:
                    return
                if known != (known := f"tools.{self._digest(agent)}"):
                    yield _event(CHANGED, known)

    async def _rest(
        self, agent: AgentRecord, version: str, last: str, key: str, quoted: str, primed: bool
    ) -> AsyncIterator[bytes]:
        yield _event(None, last) if primed else _PING  # else a second break would find nothing to ask for
        asked = asyncio.ensure_future(self._desk.again(agent, key))
        stop = asyncio.ensure_future(self._here.stopping.wait())
        try:
            while not asked.done():
                await asyncio.wait(
                    {asked, stop},
                    timeout=self._here.settings.gateway_heartbeat,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if stop.done():
                    return
                if not asked.done():
                    yield _PING
            try:
                outcome = asked.result()
            except RegrowError as error:
                result = refused(error)
            else:
                result = answered(outcome) if outcome is not None else lost()
        finally:
            asked.cancel()
            stop.cancel()
        body = result.model_dump(by_alias=True, mode="json", exclude_none=True)
        shaped = methods.serialize_server_result(METHOD, version, body)
        yield _event({"jsonrpc": "2.0", "id": _id(quoted), "result": shaped}, last)

    def _digest(self, agent: AgentRecord) -> str:
        return hashlib.blake2b(messages.encode(self._desk.tools(agent)), digest_size=8).hexdigest()


def _id(quoted: str) -> Any:
    try:
        return msgspec.json.decode(unquote(quoted))
    except msgspec.DecodeError:
        return None


def _event(data: Any, id_: str) -> bytes:
    """An event; `data` None: one that only tells its id."""
    head = b"id: %s\nretry: %d\n" % (id_.encode(), RETRY_MS)
    return head + (b"event: message\ndata: %s\n\n" % messages.encode(data) if data is not None else b"data: \n\n")
