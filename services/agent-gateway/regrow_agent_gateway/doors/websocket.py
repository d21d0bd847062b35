"""The WebSocket door: calls, answers, messages and what the harness tells, over one connection.

Frames are JSON objects with a `type`; see docs/reference/agent-doors.md. Nothing is kept for a connection but the calls
that wait: messages are read from the stream after the sequence that the agent names, and a call is known by its own id,
so after a cut the agent says where it stopped, repeats what was not answered or acknowledged, and nothing is lost or
done twice.

Back-pressure: one frame is sent at a time; an agent that does not take it for some seconds is cut, and of its messages
no more than a page is in memory. An agent that wants no more than some messages at a time says so (`window`) and
acknowledges them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from regrow_protocol import messages
from regrow_protocol.errors import RegrowError
from regrow_service.logs import get_logger
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..context import Context
from ..desk import Desk
from ..errors import AgentError, InvalidRequest, TooMany
from ..mail import Mail
from ..measures import CONNECTIONS, CUT, MESSAGES
from . import telling
from .access import SUBPROTOCOL, Visitor, admit, number
from .answering import an_object, decoded, described, refusal
from .waiting import first

STOPS, OVER, BROKEN, SLOW = 1012, 4001, 4002, 4008
"""Close codes: this gateway stops; the agent has ended, or its session; a frame that is none; no data was taken."""


class _Slow(Exception):
    """The agent takes no data."""


class WebSocketDoor:
    """Of one gateway."""

    def __init__(self, context: Context, desk: Desk, mail: Mail, abort: Callable[[WebSocket], None]) -> None:
        self._here = context
        self._desk = desk
        self._mail = mail
        self._abort = abort

    async def serve(self, socket: WebSocket) -> None:
        """One connection."""
        try:
            visitor = await admit(self._desk, socket)
            after, window = number(socket, "after", "0"), number(socket, "window", "0")
        except RegrowError as error:
            await socket.send_denial_response(refusal(error))
            return
        chosen = SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", []) else None
        await socket.accept(chosen)
        with self._here.metrics[CONNECTIONS].labels("websocket").track_inprogress():
            await _Connection(self._here, self._desk, self._mail, socket, visitor, self._abort).run(after, window)


class _Connection:
    def __init__(
        self,
        context: Context,
        desk: Desk,
        mail: Mail,
        socket: WebSocket,
        visitor: Visitor,
        abort: Callable[[WebSocket], None],
    ) -> None:
        self._here, self._desk, self._mail, self._socket = context, desk, mail, socket
        self._agent, self._session = visitor
        self._abort = abort
        self._sending = asyncio.Lock()
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._acknowledged = 0
        self._acked = asyncio.Event()
        self._log = get_logger("websocket", agent=self._agent.id)

    async def run(self, after: int, window: int) -> None:
        """Until the agent goes, is told to go, or is cut."""
        works = [
            asyncio.create_task(self._listen(), name="listen"),
            asyncio.create_task(self._tell(after, window), name="tell"),
        ]
        try:
            done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            for work in done:
                work.result()
        except WebSocketDisconnect:
            self._log.debug("the agent has gone")
        except _Slow:
            self._here.metrics[CUT].labels("websocket").inc()
            self._log.warning("cut: it takes no data", seconds=self._here.settings.gateway_slow)
            self._abort(self._socket)
        except RegrowError as error:
            self._log.warning("given up", reason=str(error))
            await self._close(STOPS, "the store does not answer")
        finally:
            works += self._calls.values()
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)

    # to the agent -----------------------------------------------------------------------------------------------------

    async def _send(self, frame: dict[str, Any]) -> None:
        text = messages.encode(frame).decode()
        async with self._sending:
            try:
                async with asyncio.timeout(self._here.settings.gateway_slow):
                    await self._socket.send_text(text)
            except TimeoutError:
                raise _Slow from None
            except RuntimeError as error:  # it was closed meanwhile
                raise WebSocketDisconnect from error

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with self._sending, asyncio.timeout(self._here.settings.gateway_slow):
                await self._socket.close(code, reason[:120])
        except TimeoutError:
            self._abort(self._socket)
        except (RuntimeError, WebSocketDisconnect):
            return

    async def _tell(self, after: int, window: int) -> None:
        """Hand out messages, and say what has changed; ends with the connection's reason to end."""
        open_: deque[int] = deque()
        here, agent = self._here, self._agent
        handed = here.metrics[MESSAGES].labels("websocket")
        with self._desk.changed(agent.id) as changed:
            async with self._mail.box(agent) as box:
                tools = self._desk.tools(agent)
                hello = {"type": "hello", "agent": agent.id, "name": agent.name, "session": self._session}
                await self._send({**hello, "heartbeat": here.settings.gateway_heartbeat, "tools": tools})
                while not here.stopping.is_set():
                    box.arrived.clear()
                    self._acked.clear()
                    while open_ and open_[0] <= self._acknowledged:
                        open_.popleft()
                    found = await box.after(after) if not window or len(open_) < window else []
                    for entry in found[: window - len(open_)] if window else found:
                        await self._send({"type": "message", **telling.message(entry)})
                        after = entry.seq
                        handed.inc()
                        if window:
                            open_.append(after)
                    if not found:
                        await first(box.arrived, changed, here.stopping, self._acked)
                    if changed.is_set():
                        changed.clear()
                        try:
                            agent = self._desk.still(self._agent)
                        except AgentError as error:
                            await self._send({"type": "bye", "reason": error.message, "code": error.code})
                            await self._close(OVER, error.message)
                            return
                        if tools != (tools := self._desk.tools(agent)):
                            await self._send({"type": "tools", "tools": tools})
        await self._send({"type": "bye", "reason": "this gateway stops", "code": "not-now"})
        await self._close(STOPS, "this gateway stops")

    # from the agent ---------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        broken = ""
        while not broken:
            received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(received.get("code", 1005))
            data = received.get("text")
            try:
                frame = an_object(decoded(data if data is not None else received.get("bytes", b"")), "A frame")
            except InvalidRequest as error:
                broken = str(error)
                continue
            await self._take(frame)
        await self._send({"type": "error", "code": "invalid-request", "message": broken})
        await self._close(BROKEN, broken)

    async def _take(self, frame: dict[str, Any]) -> None:
        type_ = frame.get("type")
        try:
            if type_ == "call":
                await self._call(frame)
            elif type_ == "entry":
                await self._entry(frame)
            elif type_ == "ack":
                self._ack(frame)
            elif type_ == "ping":
                await self._send({**frame, "type": "pong"})
            else:
                raise InvalidRequest(f"There is no frame of type {str(type_)[:40]!r}", hint="call, entry, ack, ping")
        except AgentError as error:
            await self._send({"type": "error", "id": frame.get("id"), **described(error)})

    def _ack(self, frame: dict[str, Any]) -> None:
        seq = frame.get("seq")
        if not isinstance(seq, int):
            raise InvalidRequest("An ack names the seq of a message")
        self._acknowledged = max(self._acknowledged, seq)
        self._acked.set()

    async def _entry(self, frame: dict[str, Any]) -> None:
        type_, id_, data = telling.told(frame.get("entry"))
        stored = await self._desk.entry(self._agent, type_, data, id_=id_, session=self._session)
        await self._send({"type": "ack", "id": id_, "seq": stored.seq})

    async def _call(self, frame: dict[str, Any]) -> None:
        id_ = telling.an_id(frame.get("id"), "The id of a call")
        tool, args = frame.get("tool"), an_object(frame.get("args", {}), "The arguments of a call")
        if not isinstance(tool, str):
            raise InvalidRequest("A call names its tool")
        if id_ in self._calls:
            return  # it is under way on this very connection
        most = self._here.settings.gateway_max_calls
        if len(self._calls) >= most:
            raise TooMany(f"{most} tool calls are under way", hint="wait for one of them to be answered")
        task = asyncio.create_task(self._guarded(self._answer(id_, tool, args)), name=f"call {id_}")
        self._calls[id_] = task
        task.add_done_callback(lambda _: self._calls.pop(id_, None))

    async def _answer(self, id_: str, tool: str, args: dict[str, Any]) -> None:
        async def waits(seconds: float) -> None:
            await self._send({"type": "waiting", "id": id_, "seconds": round(seconds, 1)})

        try:
            result = await self._desk.call(
                self._agent, session=str(self._session), call=id_, tool=tool, args=args, on_wait=waits
            )
        except RegrowError as error:
            # what may be repeated is told apart from what is the answer
            type_ = "result" if isinstance(error, AgentError) and not isinstance(error, TooMany) else "error"
            frame: dict[str, Any] = {"error": described(error)} if type_ == "result" else described(error)
            await self._send({"type": type_, "id": id_, **frame})
        else:
            await self._send({"type": "result", "id": id_, **telling.outcome(result)})

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except WebSocketDisconnect:
            return  # `_listen` hears of it too
        except _Slow:
            self._here.metrics[CUT].labels("websocket").inc()
            self._log.warning("cut: it takes no data", seconds=self._here.settings.gateway_slow)
            self._abort(self._socket)
        except msgspec.MsgspecError:
            self._log.exception("an answer cannot be told")
