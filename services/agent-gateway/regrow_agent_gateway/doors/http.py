"""The plain HTTP door, for anything that can make a request, such as curl.

`GET …/tools`, `POST …/tools/<name>`, `GET …/messages`, `POST …/entries`; see docs/reference/agent-doors.md.
"""

from __future__ import annotations

import asyncio
from typing import Any

from regrow_protocol.agents import Entry
from regrow_protocol.ids import new_id
from starlette.requests import Request
from starlette.responses import Response

from ..context import Context
from ..desk import Desk
from ..errors import InvalidRequest, NotNow, TooMany
from ..mail import Mail, Mailbox
from ..measures import MESSAGES
from . import telling
from .access import Visitor, admit, number
from .answering import an_object, body, json
from .sse import stream
from .waiting import first

LONGEST = 60
"""Seconds that a request for messages may be held open."""
MAX_ENTRIES = 1000
FAILED = 422
"""Status of a call that its tool answered with an error."""


class HttpDoor:
    """Of one gateway."""

    def __init__(self, context: Context, desk: Desk, mail: Mail) -> None:
        self._here = context
        self._desk = desk
        self._mail = mail

    async def tools(self, request: Request) -> Response:
        """What the agent may call."""
        agent, _ = await admit(self._desk, request)
        return json({"tools": self._desk.tools(agent)})

    async def call(self, request: Request) -> Response:
        """Call a tool: arguments in, the result's JSON out.

        A harness that was started again learns what a call of an earlier session was answered, or makes it now, by
        naming that session in `Regrow-Call-Session`.
        """
        visitor = await admit(self._desk, request)
        args = an_object(await body(request, self._here.settings.gateway_max_body), "The arguments")
        call = telling.an_id(request.headers.get("regrow-call", "") or new_id("r"), "Regrow-Call")
        session = number(
            request, "call-session", request.headers.get("regrow-call-session", "") or str(visitor.session)
        )
        if session > visitor.session:
            raise InvalidRequest(f"Session {session} has not begun: this is session {visitor.session}")
        seconds = number(request, "wait", "0")
        calling = asyncio.ensure_future(
            self._desk.call(visitor.agent, session=str(session), call=call, tool=request.path_params["tool"], args=args)
        )
        try:
            # until it is answered, or the agent has no more patience or goes away, or this gateway stops
            await first(asyncio.wait([calling]), _gone(request), self._here.stopping, timeout=seconds or None)
            if not calling.done() and self._here.stopping.is_set():
                raise NotNow("This gateway stops", hint=f"make the same call again, with Regrow-Call: {call}")
            if not calling.done():
                return json({"call": call, "state": "waiting"}, 202, {"regrow-call": call})
            answer = telling.outcome(calling.result())
        finally:
            calling.cancel()
        if "error" not in answer:
            return json(answer["value"], 200, {"regrow-call": call})
        status = TooMany.status if answer["error"]["code"] == TooMany.code else FAILED
        return json(answer, status, {"regrow-call": call})

    async def messages(self, request: Request) -> Response:
        """What was said to the agent after a sequence: now, within some seconds, or as a stream of events."""
        visitor = await admit(self._desk, request)
        after = number(request, "after", request.headers.get("last-event-id", "") or "0")
        if "text/event-stream" in request.headers.get("accept", ""):
            return stream(self._here, self._desk, self._mail, visitor, after)
        seconds = min(number(request, "wait", "0"), LONGEST)
        async with self._mail.box(visitor.agent) as box:
            found = await self._waited(request, visitor, box, after, seconds)
        self._here.metrics[MESSAGES].labels("http").inc(len(found))
        return json({"messages": [telling.message(each) for each in found], "last": found[-1].seq if found else after})

    async def _waited(
        self, request: Request, visitor: Visitor, box: Mailbox, after: int, seconds: float
    ) -> list[Entry]:
        loop, stopping = asyncio.get_running_loop(), self._here.stopping
        deadline = loop.time() + seconds
        with self._desk.changed(visitor.agent.id) as changed:
            while True:
                box.arrived.clear()
                if found := await box.after(after):
                    return found
                left = deadline - loop.time()
                if left <= 0 or not await first(box.arrived, changed, stopping, _gone(request), timeout=left):
                    return []
                if changed.is_set():
                    changed.clear()
                    self._desk.still(visitor.agent)
                elif not box.arrived.is_set():  # the agent has gone, or this gateway stops
                    return []

    async def entries(self, request: Request) -> Response:
        """What the harness tells, one entry or a list of them."""
        visitor = await admit(self._desk, request)
        given = await body(request, self._here.settings.gateway_max_body)
        listed: list[Any] = given if isinstance(given, list) else [given]
        if len(listed) > MAX_ENTRIES:
            raise InvalidRequest(f"{len(listed)} entries are more than is taken at once ({MAX_ENTRIES})")
        entries = [telling.told(each) for each in listed]
        stored = await asyncio.gather(
            *[
                self._desk.entry(visitor.agent, type_, data, id_=id_, session=visitor.session)
                for type_, id_, data in entries
            ]
        )
        return json({"entries": [each.seq for each in stored]})


async def _gone(request: Request) -> None:
    """Wait until the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
