"""Inputs as they stand in the stream: what they are before they are decoded, and decoding them."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import msgspec
from regrow_protocol import messages as m
from regrow_protocol.bus import Received

_IS_FIRST = b"Nats-Expected-Last-Subject-Sequence: 0\r\n"
_KIND_WITHIN = 40
"""Bytes at the beginning of an input that hold its kind, however it was formatted."""

BAD_INPUT = (msgspec.MsgspecError, RecursionError, ValueError)
"""What decoding an input may raise."""

Recorded: TypeAlias = tuple[m.Input, Received]


class Move(NamedTuple):
    """A build that folds a process, and the input from which on it does."""

    build: str
    since: int


def is_kind(received: Received, kind: Literal["resume", "upgrade"]) -> bool:
    """Whether the input may be of that kind; said without decoding it."""
    return b'"%s"' % kind.encode() in received.data[:_KIND_WITHIN]


def is_first(received: Received) -> bool:
    """The stream took it as the first message of its subject."""
    return received.raw_headers is not None and _IS_FIRST in received.raw_headers


def read_input(received: Received) -> m.Input | None:
    """The input, or None for what is none."""
    try:
        return m.decode_input(received.data)
    except BAD_INPUT:
        return None


def moves_of(inputs: list[Recorded]) -> tuple[m.Start | None, list[Move]]:
    """The start of the current incarnation, and the builds that folded the process, the present one last."""
    start: m.Start | None = None
    moves: list[Move] = []
    for message, received in inputs:
        if isinstance(message, m.Start) and (start is None or message.incarnation > start.incarnation):
            if not moves or moves[-1].build != message.build:
                moves.append(Move(message.build, received.seq))
            start = message
        elif isinstance(message, m.Upgrade) and start is not None and message.build != moves[-1].build:
            moves.append(Move(message.build, received.seq))
    return start, moves
