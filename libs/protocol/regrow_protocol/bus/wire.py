"""What goes over the wire, taken apart and put together: received messages, acknowledgements, header blocks, API
errors.

All of it is bytes in the order the server wrote them. Headers are parsed only when somebody asks for them.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from ..errors import InvalidName, RegrowError

MAX_SUBJECT = 3072
"""Bytes; the server's limit is 4096 for a command with all of its arguments."""

_NO_SUBJECT = re.compile(r"[\s\x00-\x1f]|(?:^|\.)[*>]?(?:\.|$)")
_PLAIN_SUBJECT = re.compile(r"[\x21-\x29\x2b-\x2d\x2f-\x3d\x3f-\x7e]+(?:\.[\x21-\x29\x2b-\x2d\x2f-\x3d\x3f-\x7e]+)*")
"""Nearly all subjects; looked for first, since a search for what must not be there takes five times as long."""
_UNSAFE = re.compile(r"[\s\x00-\x1f]")
_UNSAFE_VALUE = re.compile(r"[\r\n\x00]")


class ApiError(RegrowError):
    """The JetStream API answered with an error.

    Attributes:
        status: HTTP-like code, such as 404.
        err_code: the server's own number, such as 10059.
    """

    code: ClassVar[str] = "nats-api-error"

    def __init__(self, message: str, *, status: int, err_code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.err_code = err_code


class Received(Struct, gc=False):
    """A message of a stream.

    Attributes:
        subject: its subject.
        seq: its sequence in the stream.
        time: when the stream stored it, seconds since 1970.
        data: its body.
        raw_headers: the header block as it came, or None.
        reader_seq: number of the message within the consumer that delivered it; 0 for direct gets.
        pending: how many matching messages were still to come when it was sent.
    """

    subject: str
    seq: int
    time: float
    data: bytes
    raw_headers: bytes | None = None
    reader_seq: int = 0
    pending: int = 0

    @property
    def headers(self) -> dict[str, str] | None:
        """Its headers, parsed anew with each access; None when it has none."""
        return None if self.raw_headers is None else parse_headers(self.raw_headers)

    def header(self, name: str) -> str | None:
        """One header, without parsing the others."""
        return None if self.raw_headers is None else find_header(self.raw_headers, name.encode())


class PubAck(Struct, frozen=True, gc=False):
    """The stream has stored a message.

    Attributes:
        seq: its sequence.
        duplicate: it had been stored before, under this id.
    """

    seq: int
    duplicate: bool = False


class ErrorBody(Struct):
    code: int = 500
    err_code: int = 0
    description: str = ""


class AckBody(Struct):
    """The body of a publish acknowledgement; `seq` is the last one of a batch."""

    seq: int = 0
    duplicate: bool = False
    error: ErrorBody | None = None


decode_ack = msgspec.json.Decoder(AckBody).decode


class _ErrorOnly(Struct):
    error: ErrorBody | None = None


_decode_error = msgspec.json.Decoder(_ErrorOnly).decode


def api_error(body: bytes) -> ErrorBody | None:
    """The error that an API answer carries, if any."""
    return _decode_error(body).error if b'"error"' in body else None


def ack_parts(reply: bytes) -> tuple[int, int, float, int]:
    """(stream sequence, consumer sequence, seconds since 1970, pending) of a delivered message's reply subject.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<ns>.<pending>`, or, since ADR-15's second form, the same
    after `$JS.ACK.<domain>.<account hash>` and with more tokens behind.
    """
    tokens = reply.split(b".")
    at = 5 if len(tokens) == 9 else 7
    return int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 2]) / 1e9, int(tokens[at + 3])


def delivery_count(reply: bytes) -> int:
    """How often the message of a reply subject was delivered, this time included."""
    tokens = reply.split(b".")
    return int(tokens[4] if len(tokens) == 9 else tokens[6])


def parse_headers(block: bytes) -> dict[str, str]:
    """A header block (`NATS/1.0 …`) to a dict; an inline status becomes `Status` and `Description`."""
    lines = block.split(b"\r\n")
    out: dict[str, str] = {}
    first = lines[0]
    if len(first) > 8:
        status, _, description = first[9:].decode("utf-8", "replace").partition(" ")
        out["Status"] = status
        if description:
            out["Description"] = description
    for line in lines[1:]:
        name, found, value = line.partition(b":")
        if found:
            out[name.strip().decode("utf-8", "replace")] = value.strip().decode("utf-8", "replace")
    return out


def find_header(block: bytes, name: bytes) -> str | None:
    """The value of one header of a block."""
    start = block.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    return block[start : block.find(b"\r\n", start)].strip().decode("utf-8", "replace")


def status_of(block: bytes | None) -> int:
    """The inline status of a header block: 100, 204, 404, 408, 409, 503 …, or 0."""
    if block is None or len(block) < 12 or block[8] != 32:
        return 0
    return int(block[9:12])


def check_subject(subject: str) -> str:
    """`subject` itself when something can be published on it, else `InvalidName`.

    The server would close the connection over a subject that is too long, and take one with a line break for two
    commands.
    """
    if _PLAIN_SUBJECT.fullmatch(subject) and len(subject) <= MAX_SUBJECT:
        return subject
    if not subject or _NO_SUBJECT.search(subject) or len(_encoded(subject)) > MAX_SUBJECT:
        hint = f"no white space, no empty token, no wildcards, at most {MAX_SUBJECT} bytes"
        raise InvalidName(f"{subject[:80]!r} is no subject to publish on", hint=hint)
    return subject


def header_lines(headers: dict[str, str]) -> bytes:
    """`Name: value` lines; `InvalidName` for what would break out of its line."""
    for name, value in headers.items():
        if not name or ":" in name or _UNSAFE.search(name) or _UNSAFE_VALUE.search(value):
            hint = "no line breaks, no white space in its name"
            raise InvalidName(f"The header {name[:80]!r} cannot be sent", hint=hint)
    return _encoded("".join([f"{name}: {value}\r\n" for name, value in headers.items()]))


def id_line(msg_id: str) -> bytes:
    """The header line of a message id alone; `InvalidName` as `header_lines`."""
    if msg_id.isascii() and msg_id.isprintable():
        return b"Nats-Msg-Id: %b\r\n" % msg_id.encode()
    return header_lines({"Nats-Msg-Id": msg_id})


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidName(f"{text[:80]!r} cannot be sent: {error.reason}") from error


def hpub(subject: str, reply: str, head: bytes, payload: bytes) -> bytes:
    """The protocol line and body of one publish; `head` are header lines."""
    size = len(head) + 12
    line = f"HPUB {subject} {reply} {size} {size + len(payload)}\r\n".encode()
    return b"".join((line, b"NATS/1.0\r\n", head, b"\r\n", payload, b"\r\n"))


def pub(subject: str, reply: str, payload: bytes) -> bytes:
    """The protocol line and body of one publish without headers."""
    return b"".join((f"PUB {subject} {reply} {len(payload)}\r\n".encode(), payload, b"\r\n"))


def as_json(value: Any) -> bytes:
    """Any plain value as JSON."""
    return msgspec.json.encode(value)
