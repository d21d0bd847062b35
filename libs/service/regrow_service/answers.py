"""Answers to commands, to whoever sent them: a `Result` in a process's inbox, a `Reply` to a client.

The id of an answer is derived from its command's, so a repeated answer is recognised. A command says itself where its
answer goes, so that is checked first: an app's commands may be answered in that app's inboxes and to clients, nowhere
else. Otherwise a service, which may write to every app, would do for a stranger what that one may not do itself.
"""

from __future__ import annotations

import re

from msgspec import UNSET, Raw, Struct, UnsetType
from regrow_protocol import messages, subjects, values
from regrow_protocol.bus import Bus
from regrow_protocol.errors import InvalidName, PublishRejected, RegrowError
from regrow_protocol.messages import Chunk, Command, Failure, Op, Reply, Result
from regrow_protocol.streams import REPLIES, inbox_stream

from .consumer import Rejected

PIECE = 192 * 1024
"""Bytes of output in one `Chunk`: it fits into a message in base64."""
PUBLISH_TIMEOUT = 10.0
MAX_TEXT = 16_384

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_REPLY = re.compile(r"regrow\.reply(\.[A-Za-z0-9_=-]{1,200}){1,4}")
_INBOX = re.compile(r"regrow\.inbox\.([A-Za-z0-9_=-]+)\.[0-9]{1,4}\.([A-Za-z0-9_-]{1,64})")
_PID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NO_OP = Op(0, "", "", "", "")


class Answer(Struct, frozen=True, omit_defaults=True):
    """What a command is answered.

    Attributes:
        value: the result's JSON; absent when there is an `error`.
    """

    value: Raw | UnsetType = UNSET
    error: Failure | None = None


def checked(command: Command, app: str) -> Command:
    """The command itself, if it may be taken from a subject of the app whose token is `app`.

    Raises:
        Rejected: its id, or that of who sent it, is none, it speaks for another app, or it wants its answer elsewhere.
    """
    if not _ID.fullmatch(command.id) or ".." in command.id or command.id.endswith("."):
        raise Rejected(f"{command.id[:80]!r} is no id of a command")
    try:
        own = subjects.token(command.app)
    except RegrowError as error:
        raise Rejected(str(error)) from error
    if own != app:
        raise Rejected(f"a command of the app {command.app!r} on a subject of the app {app!r}")
    if command.by is not None and not is_pid(command.by.pid):
        raise Rejected(f"{command.by.pid[:80]!r} is no id of a process")
    if not command.reply or _REPLY.fullmatch(command.reply):
        return command
    found = _INBOX.fullmatch(command.reply)
    if not found or found[1] != app:
        raise Rejected(f"its answer may not go to {command.reply[:200]!r}")
    if command.by is None or command.op is None or command.by.pid != found[2]:
        raise Rejected(f"its answer may not go to {command.reply[:200]!r}: it is of another process, or of none")
    return command


def is_pid(text: str) -> bool:
    """Whether a text may be the id of a process: one plain token of a subject."""
    return _PID.fullmatch(text) is not None


def failure(error: BaseException, *, retryable: bool = True) -> Failure:
    """An exception as data: a RegrowError with its code and hint, any other by its class and text."""
    if isinstance(error, RegrowError):
        return Failure(type(error).__name__, str(error)[:MAX_TEXT], error.code, retryable)
    name = type(error).__name__
    return Failure(name, (str(error) or name)[:MAX_TEXT], retryable=retryable)


class Answers:
    """Publishes answers over `bus`."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    async def deflated(self, answer: Answer) -> Answer:
        """The answer with a large value in the object store, and a reference in its place."""
        small, blobs = values.deflate(answer)
        for blob in blobs:
            await self.bus.put_value(blob)
        return small

    async def send(self, command: Command, answer: Answer) -> None:
        """Publish the answer to a command that was `checked`; nothing where nobody waits for one.

        Raises:
            Unreachable: it may or may not be published; call again.
            Rejected: it never will be.
        """
        if not command.reply:
            return
        answer = await self.deflated(answer)
        if self._to_process(command):
            assert command.by is not None
            assert command.op is not None
            body = messages.encode(
                Result(incarnation=command.by.incarnation, op=command.op, value=answer.value, error=answer.error)
            )
        else:
            body = messages.encode(Reply(answer.value, answer.error))
        await self._publish(command, body, f"{command.id}.answer")

    async def chunk(self, command: Command, channel: str, offset: int, data: bytes) -> None:
        """Publish a piece of output that begins at byte `offset` of `channel`; nothing where nobody waits for it.

        A client gets it as `Chunk` too, with incarnation 0.
        """
        if not command.reply:
            return
        to_process = self._to_process(command) and command.by is not None
        incarnation = command.by.incarnation if to_process and command.by else 0
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            at = offset + start
            body = Chunk(incarnation=incarnation, op=command.op or _NO_OP, channel=channel, offset=at, data=piece)
            # the length is in the id: after a crash the output is cut at other places
            await self._publish(command, messages.encode(body), f"{command.id}.{channel}.{at}.{len(piece)}")

    @staticmethod
    def _to_process(command: Command) -> bool:
        return command.reply.startswith("regrow.inbox.")

    async def _publish(self, command: Command, body: bytes, msg_id: str) -> None:
        stream = inbox_stream(command.app) if self._to_process(command) else REPLIES
        try:
            await self.bus.publish(stream, command.reply, body, msg_id, timeout=PUBLISH_TIMEOUT, withdraw=True)
        except (PublishRejected, InvalidName) as error:
            raise Rejected(f"its answer is refused: {error}") from error
