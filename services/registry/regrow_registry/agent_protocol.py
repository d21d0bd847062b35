"""Running agents in the Synadia Agent Protocol for NATS, version 0.3 (github.com/synadia-ai/synadia-agent-sdk-docs).

Each running agent is an instance of the micro service `agents`, with the endpoints `prompt` and `status`, and beats on
`agents.hb.<harness>.<app>.<agent>`. Several registries are several instances of the same agent, as the protocol has it.

A prompt is a message to the agent, durable like every one; what it says from then on, until it is at rest, is the
answer: an `ack` first, `response` chunks, an empty message last. The stream to whoever asked is core NATS, as the
protocol says: when its registry dies the rest of it is lost, and the agent goes on. Attachments are not taken, and no
questions are asked back. Sender identity (its chapter 13) is not implemented.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Raw
from regrow_protocol import agents, messages, subjects
from regrow_protocol.agents import AgentRecord, Send, agent_subject, conversation
from regrow_protocol.bus import Bus, Entry, Received
from regrow_protocol.bus.wire import pub
from regrow_protocol.errors import RegrowError
from regrow_protocol.ids import COMMAND, new_id
from regrow_protocol.messages import Command
from regrow_protocol.streams import AGENTS, COMMANDS
from regrow_service.logs import get_logger
from regrow_service.micro import Micro, MicroError, MicroRequest, MicroService

from .calling import Calling
from .outside import plain

VERSION = "1.0.0"
PROTOCOL = "0.3"
QUEUE = "agents"
MAX_PAYLOAD = 1024 * 1024
MAX_PROMPTS = 256
"""Prompts that one registry follows at a time: each takes a consumer."""
KEEP_ALIVE = 20.0
"""Seconds of silence after which whoever asked is told that it goes on; callers give up after 60."""
REST = 1.0
"""Seconds after the end of a turn in which another one may begin that belongs to the same answer."""
SEND_PATIENCE = 30.0
BETWEEN = "\n\n"
"""Between two texts of an agent: callers put the chunks together as they are."""
_BLANK = b"\t\n\r "


class AgentProtocol:
    """Of one registry; `run` it.

    Args:
        bus: connected.
        micro: that the services are offered by.
        calling: to ask the agent-gateway.
        interval: seconds between two heartbeats.
    """

    def __init__(self, bus: Bus, micro: Micro, calling: Calling, interval: float) -> None:
        self._bus = bus
        self._micro = micro
        self._calling = calling
        self._interval = interval
        self._agents: dict[str, tuple[AgentRecord, MicroService]] = {}
        self._prompts = 0
        self._log = get_logger("agent-protocol")

    async def run(self) -> None:
        """Offer the running agents, for ever; may be cancelled at any moment."""
        watcher = self._bus.kv(agents.BUCKET).watch("agent.*", self._entry)
        try:
            await watcher.current
            while True:
                for record, service in self._agents.values():
                    self._beat(record, service)
                await asyncio.sleep(self._interval)
        finally:
            await watcher.stop()

    def _entry(self, entry: Entry) -> None:
        id_ = entry.key.removeprefix("agent.")
        record = None
        if entry.operation == "put":
            try:
                record = messages.decode(entry.value, AgentRecord)
            except msgspec.MsgspecError as error:
                self._log.error("a record that does not decode", key=entry.key, reason=str(error))
        running = record is not None and record.state == "running"
        known = self._agents.get(id_)
        if known is not None and not running:
            del self._agents[id_]
            self._micro.remove(known[1])
        elif known is not None and record is not None:
            self._agents[id_] = record, known[1]
        elif running and record is not None:
            service = self._agents[id_] = record, self._offered(record)
            self._beat(*service)

    def _offered(self, record: AgentRecord) -> MicroService:
        service = self._micro.add(
            "agents",
            version=VERSION,
            description=f"{record.name}, an agent of the app {record.app}",
            metadata={
                "agent": record.harness,
                "owner": record.app,
                "session": record.id,
                "protocol_version": PROTOCOL,
                "name": record.name,
                "model": record.model,
                "process": record.owner.pid,
            },
        )

        async def status(_: MicroRequest) -> bytes:
            return self._state(*self._agents[record.id])

        async def prompt(request: MicroRequest) -> None:
            await self._prompt(record, request)

        service.endpoint("status", _subject("status", record), status, queue=QUEUE)
        limits = {"max_payload": f"{min(self._bus.nc.max_payload, MAX_PAYLOAD) // 1024}KB", "attachments_ok": "false"}
        service.endpoint("prompt", _subject("prompt", record), prompt, queue=QUEUE, metadata=limits)
        return service

    # liveness ---------------------------------------------------------------------------------------------------------

    def _state(self, record: AgentRecord, service: MicroService) -> bytes:
        state = {
            "agent": record.harness,
            "owner": record.app,
            "session": record.id,
            "instance_id": service.id,
            "ts": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "interval_s": self._interval,
        }
        return msgspec.json.encode(state)

    def _beat(self, record: AgentRecord, service: MicroService) -> None:
        self._bus.nc.send(pub(_subject("hb", record), "", self._state(record, service)))

    # prompts ----------------------------------------------------------------------------------------------------------

    async def _prompt(self, record: AgentRecord, request: MicroRequest) -> None:
        try:
            text = prompt_of(request.data)
            if self._prompts >= MAX_PROMPTS:
                raise _error(429, "rate_limited", "too many prompts are under way; try again")
            self._prompts += 1
            try:
                request.respond(_chunk("status", "ack"))
                await self._converse(record, text, request)
            finally:
                self._prompts -= 1
        except MicroError as error:
            request.respond_error(error)
            raise
        except asyncio.CancelledError:
            request.respond_error(_error(500, "going", "this registry ends; the agent goes on"))
            raise
        except RegrowError as error:
            told = _error(500, "internal", str(error))
            request.respond_error(told)
            raise told from error
        finally:
            request.respond(b"")

    async def _converse(self, record: AgentRecord, text: str, request: MicroRequest) -> None:
        answer = Answer(request)
        since = await self._bus.last_seq(AGENTS)
        busy = await self._is_busy(record)
        reader = self._bus.read(AGENTS, conversation(record.app, record.id), since + 1, answer.take)
        try:
            answer.begin(await self._send(record, text), busy=busy)
            await answer.complete()
        finally:
            await reader.stop()

    async def _is_busy(self, record: AgentRecord) -> bool:
        last = await self._bus.last(AGENTS, agents.entries_of(record.app, record.id, "turn"))
        return last is not None and _data(messages.decode(last.data, agents.Entry)).get("state") == "started"

    async def _send(self, record: AgentRecord, text: str) -> int:
        """Send the agent a message; its sequence."""
        reply = self._calling.next_reply()
        id_ = new_id(COMMAND)
        command = Command(
            id=id_, app=record.app, name="send", args=Raw(messages.encode(Send(text, sender="a caller on NATS"))),
            reply=reply,
        )  # fmt: skip
        subject = agent_subject(record.app, record.id)
        try:
            async with asyncio.timeout(SEND_PATIENCE):
                sent = await self._calling.ask(COMMANDS, subject, command, id_, reply)
        except TimeoutError as error:
            raise _error(500, "no_gateway", "no agent-gateway has taken the message") from error
        if sent.error is not None:
            status = 404 if sent.error.code == "agent-ended" else 409
            raise _error(status, sent.error.code.replace("-", "_"), sent.error.message)
        return messages.decode(sent.value, int) if isinstance(sent.value, Raw) else 0


class Answer:
    """What an agent says to a message, as chunks.

    It is whole when the turn that has taken the message has ended and no other follows. An agent that was busy takes
    the message in that turn or in the next one; which of them is not told, so both belong to the answer.
    """

    def __init__(self, request: MicroRequest) -> None:
        self._request = request
        self._held: list[Received] = []
        self._after: int | None = None
        self._turn = False
        self._turns = 0
        self._ended = ""
        self._spoken = False
        self._news = asyncio.Event()
        self._said = time.monotonic()

    def begin(self, after: int, *, busy: bool) -> None:
        """What comes after sequence `after` belongs to it; `busy`: a turn was under way."""
        self._after, self._turn = after, busy
        held, self._held = self._held, []
        self.take(held)

    def take(self, batch: list[Received]) -> None:
        """Entries of the conversation."""
        if self._after is None:
            self._held += batch
            return
        for received in batch:
            try:
                self._entry(messages.decode(received.data, agents.Entry), received.seq > self._after)
            except msgspec.MsgspecError:
                continue  # not ours to judge
        self._news.set()

    def _entry(self, entry: agents.Entry, counts: bool) -> None:
        data = _data(entry)
        if entry.type == "turn":
            self._turn = data.get("state") == "started"
            self._turns += counts and not self._turn
        elif entry.type == "text" and counts and (text := data.get("text")):
            self._say(_chunk("response", f"{BETWEEN if self._spoken else ''}{text}"))
            self._spoken = True
        elif entry.type in ("ended", "lost") and counts and not data.get("again"):
            self._ended = str(data.get("reason") or f"the agent is {entry.type}")

    def _say(self, chunk: bytes) -> None:
        self._said = time.monotonic()
        self._request.respond(chunk)

    async def complete(self) -> None:
        """Wait until it is whole.

        Raises:
            MicroError: it never will be.
        """
        while True:
            self._news.clear()
            if self._ended:
                raise _error(500, "agent_lost", self._ended)
            at_rest = self._turns > 0 and not self._turn
            if not await _within(self._news, REST if at_rest else KEEP_ALIVE):
                if at_rest:
                    return
                self._say(_chunk("status", "working"))


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def prompt_of(data: bytes) -> str:
    """The text of a request, which is that itself or a JSON envelope.

    Raises:
        MicroError: it is neither (400).
    """
    if len(data) > MAX_PAYLOAD:
        raise _error(400, "too_large", f"the request has {len(data):,} bytes; at most {MAX_PAYLOAD:,} are taken")
    if not data.lstrip(_BLANK).startswith(b"{"):
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise _error(400, "bad_request", "the prompt is no UTF-8 text") from error
        if not text:
            raise _error(400, "bad_request", "the request is empty")
        return text
    try:
        envelope = msgspec.json.decode(data.lstrip(_BLANK))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _error(400, "bad_request", f"the envelope is no JSON: {error}") from error
    if not isinstance(prompt := envelope.get("prompt"), str) or not prompt:
        raise _error(400, "bad_request", "the envelope has no text as its prompt")
    attachments = envelope.get("attachments")
    if attachments is not None and not isinstance(attachments, list):
        raise _error(400, "bad_request", "attachments are an array")
    if attachments:
        raise _error(400, "attachments_not_ok", "attachments are not taken")
    return prompt


def _subject(verb: str, record: AgentRecord) -> str:
    return f"agents.{verb}.{plain(record.harness)}.{subjects.token(record.app)}.{record.id}"


def _chunk(type_: str, data: str) -> bytes:
    return msgspec.json.encode({"type": type_, "data": data})


def _data(entry: agents.Entry) -> dict[str, Any]:
    try:
        return messages.decode(entry.data, dict[str, Any])
    except msgspec.MsgspecError:
        return {}


def _error(status: int, code: str, message: str) -> MicroError:
    return MicroError(status, message, msgspec.json.encode({"error": code, "message": message}))
