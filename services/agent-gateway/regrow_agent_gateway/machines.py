"""Commands of a gateway to machines, each done once however many gateways ask.

The id of a command is derived from what caused it, and so is the subject of its answer: another gateway that does the
same again after a crash finds the answer, or the command that is still under way.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import msgspec
from msgspec import Raw, Struct
from regrow_protocol import messages, subjects, values
from regrow_protocol.bus import Bus, Received
from regrow_protocol.errors import RegrowError
from regrow_protocol.machines import ANSWERS, MachineRef, machine_subject
from regrow_protocol.messages import Command, Failure, Reply
from regrow_protocol.streams import COMMANDS, REPLIES
from regrow_service.logs import get_logger

CLIENT = "agents"
"""In the place of a client in the subjects of the answers."""
PUBLISH_TIMEOUT = 10.0
LOOK_FIRST, LOOK_LAST = 2.0, 30.0
"""Seconds until the stream is asked for an answer that was not heard, at first and at last."""


class MachineRefused(RegrowError):
    """A machine did not do what it was told.

    Attributes:
        failure: what it answered.
    """

    code = "machine-refused"

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Machines:
    """Of one gateway; `run` listens."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._log = get_logger("machines")

    async def run(self) -> None:
        """Listen for answers, for ever; may be cancelled at any moment."""
        sid = self._bus.nc.raw_subscribe(f"regrow.reply.{CLIENT}.*", self._heard)
        try:
            await asyncio.Event().wait()
        finally:
            self._bus.nc.raw_unsubscribe(sid)

    async def ask(self, ref: MachineRef, name: str, args: Struct, id_: str) -> Any:
        """What a machine answers to a command; waits for as long as that takes.

        Args:
            ref: the machine.
            name, args: see `regrow_protocol.machines`.
            id_: of the command; the same in every repeat.

        Raises:
            MachineRefused: it failed.
            Unreachable: it may or may not be done; ask again.
        """
        reply = subjects.reply(CLIENT, hashlib.blake2b(id_.encode(), digest_size=16).hexdigest())
        heard = asyncio.Event()
        waiting = self._waiting.setdefault(reply, set())
        waiting.add(heard)
        try:
            stored = await self._bus.last(REPLIES, reply)
            if stored is None:
                command = Command(id=id_, app=ref.app, name=name, args=Raw(messages.encode(args)), reply=reply)
                small, blobs = values.deflate(command)
                for blob in blobs:
                    await self._bus.put_value(blob)
                await self._bus.publish(
                    COMMANDS,
                    machine_subject(ref.app, ref.node, ref.id),
                    messages.encode(small),
                    id_,
                    timeout=PUBLISH_TIMEOUT,
                    withdraw=True,
                )
                stored = await self._answer(heard, reply)
            answer: Reply = await values.inflate(messages.decode(stored.data, Reply), self._bus.get_value)
        finally:
            waiting.discard(heard)
            if not waiting and self._waiting.get(reply) is waiting:
                del self._waiting[reply]
        if answer.error is not None:
            raise MachineRefused(answer.error)
        type_ = ANSWERS[name]
        assert isinstance(answer.value, Raw)
        return messages.decode(answer.value, type_) if type_ is not None else msgspec.json.decode(answer.value)

    async def _answer(self, heard: asyncio.Event, reply: str) -> Received:
        pause = LOOK_FIRST
        while True:
            try:
                async with asyncio.timeout(pause):
                    await heard.wait()
                pause = 0.01  # what was heard is stored in a moment
            except TimeoutError:
                pause = min(pause * 2, LOOK_LAST)
            heard.clear()
            try:
                stored = await self._bus.last(REPLIES, reply)
            except RegrowError as error:
                self._log.info("an answer could not be looked for", reply=reply, reason=str(error))
                continue
            if stored is not None:
                return stored

    def _heard(self, subject: bytes, _reply: bytes, _headers: bytes | None, _data: bytes) -> None:
        for heard in self._waiting.get(subject.decode(), ()):
            heard.set()
