"""A message on its way through a publisher."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from .wire import PubAck

if TYPE_CHECKING:
    from .publisher import Publisher

Done: TypeAlias = Callable[[PubAck | BaseException], None]
"""Called with the acknowledgement, or with the error when the message was refused for good."""


class Item:
    """One message on its way.

    Attributes:
        head: its header lines.
        flying: it belongs to the flush in flight.
        settled: it was acknowledged, it failed, or it was withdrawn.
        answers: reply subjects on which its acknowledgement is awaited, one for each attempt.
    """

    __slots__ = (
        "answers",
        "done",
        "flying",
        "head",
        "msg_id",
        "payload",
        "publisher",
        "settled",
        "size",
        "subject",
    )

    def __init__(
        self, publisher: Publisher, subject: str, payload: bytes, msg_id: str, head: bytes, done: Done | None
    ) -> None:
        self.publisher = publisher
        self.subject = subject
        self.payload = payload
        self.msg_id = msg_id
        self.head = head
        self.done = done
        self.size = len(payload) + len(head) + len(subject)
        self.flying = False
        self.settled = False
        self.answers: list[str] = []

    def answered(self, _subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        """The acknowledgement of a single publish."""
        self.publisher._single_answered(self, headers, data)
