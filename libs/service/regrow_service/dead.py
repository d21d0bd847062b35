"""Dead letters: what could not be handled, kept with its reason until somebody looks at it and replays it.

A letter stands on `regrow.dead.<service>.<consumer>.<seq>` and carries the original. `replay` publishes the original
again on its subject, under an id of its own that is derived from the letter (so a replay that is repeated after a crash
is recognised), and then removes the letter.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import msgspec
from msgspec import Struct
from regrow_protocol import messages, subjects
from regrow_protocol.bus import ApiError, Bus, Received, ValueMissing
from regrow_protocol.errors import PublishRejected, RegrowError
from regrow_protocol.messages import DeadLetter
from regrow_protocol.streams import DEAD

MSG_ID = "Nats-Msg-Id"
VALUE = "Regrow-Value"
MAX_REASON = 2000
_NO_MESSAGE = 10037


class NoSuchLetter(RegrowError):
    """There is no dead letter of that number (any more)."""

    code = "no-such-dead-letter"


class Letter(Struct, frozen=True):
    """A dead letter where it stands.

    Attributes:
        seq: its number, to `show` and `replay` it by.
        subject: `regrow.dead.<service>.…`.
        letter: what it says.
    """

    seq: int
    subject: str
    letter: DeadLetter


async def bury(
    bus: Bus, service: str, consumer: str, stream: str, message: Received, reason: str, attempts: int
) -> str:
    """Publish the dead letter of `message`, once; its subject.

    An original that is too large to be carried goes to the object store: the letter has no body then, and the header
    `Regrow-Value` with its key.

    Raises:
        Unreachable: the letter may or may not be written; call again.
    """
    subject = subjects.dead(service, consumer, str(message.seq))
    letter = DeadLetter(
        subject=message.subject,
        reason=reason[:MAX_REASON],
        body=message.data,
        stream=stream,
        seq=message.seq,
        headers={name: value for name, value in (message.headers or {}).items() if name != "Status"},
        attempts=attempts,
        time=time.time(),
    )
    msg_id = f"{subject}.{message.time}"
    written = await bus.last(DEAD, subject)
    if written is not None and written.header(MSG_ID) == msg_id:
        return subject  # by a replica that died between the letter and taking off the original
    try:
        await bus.publish(DEAD, subject, messages.encode(letter), msg_id)
    except PublishRejected:
        headers = {**letter.headers, VALUE: await bus.put_value(message.data)}
        short = msgspec.structs.replace(letter, body=b"", headers=headers)
        await bus.publish(DEAD, subject, messages.encode(short), msg_id + ".short")
    return subject


async def letters(bus: Bus, service: str = "") -> AsyncIterator[Letter]:
    """The dead letters, oldest first; of one service where it is named."""
    wanted = subjects.dead(service) + ".>" if service else "regrow.dead.>"
    position = 1
    while True:
        found, pending = await bus.get_batch(DEAD, wanted, position)
        for message in found:
            yield _letter(message)
        if not found or not pending:
            return
        position = found[-1].seq + 1


async def show(bus: Bus, seq: int) -> Letter:
    """One dead letter. Raises `NoSuchLetter`."""
    found, _ = await bus.get_batch(DEAD, "regrow.dead.>", seq, batch=1)
    if not found or found[0].seq != seq:
        raise NoSuchLetter(f"There is no dead letter {seq}", hint="`regrow dead ls` lists them")
    return _letter(found[0])


async def replay(bus: Bus, seq: int) -> Letter:
    """Publish the original again, then remove the letter, which is returned.

    Raises:
        NoSuchLetter: there is none, or its original was too large to carry and is gone from the object store.
        PublishRejected: the subject takes it no more.
    """
    letter = await show(bus, seq)
    original = letter.letter
    if not original.subject:
        raise NoSuchLetter(f"The dead letter {seq} says nothing of its original: {original.reason}")
    body = original.body or await _kept(bus, seq, original)
    headers = {
        name: value for name, value in original.headers.items() if not name.startswith("Nats-") and name != VALUE
    }
    first_id = original.headers.get(MSG_ID) or f"{original.stream}.{original.seq}"
    await bus.publish(original.stream, original.subject, body, f"{first_id}.replay.{seq}", headers=headers)
    try:
        await bus.request(f"$JS.API.STREAM.MSG.DELETE.{DEAD}", msgspec.json.encode({"seq": seq}))
    except ApiError as error:
        if error.err_code != _NO_MESSAGE:  # somebody else replayed it at the same time, under the same id
            raise
    return letter


async def _kept(bus: Bus, seq: int, original: DeadLetter) -> bytes:
    key = original.headers.get(VALUE)
    if key is None:
        return b""  # it had no body
    try:
        return await bus.get_value(key)
    except ValueMissing as error:
        raise NoSuchLetter(f"The original of dead letter {seq} is gone: {error}") from error


def _letter(message: Received) -> Letter:
    try:
        letter = messages.decode(message.data, DeadLetter)
    except msgspec.MsgspecError as error:
        letter = DeadLetter(subject="", reason=f"this letter itself does not decode: {error}", body=message.data)
    return Letter(message.seq, message.subject, letter)
