"""`Event` and `Stream` as ramure has them: what was emitted, in order; each reader sees all of it from the first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("regrow.ramure")


@dataclass(frozen=True)
class Event:
    """Something that a process, or an agent, announced.

    Attributes:
        type: `done`, `failed`, `cancelled`, or the program's own; of an agent, what it did.
        data: of `done` the result, of `failed` the reason, else what `emit` was given.
        source: where a bubbled event came from, else None.
    """

    type: str
    data: Any = None
    source: str | None = None


class Stream:
    """Events in their order. Iterate it as often as you like, from the first event until it is closed."""

    def __init__(self) -> None:
        self._items: list[Event] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._subscribers: dict[int, Callable[[Event], None]] = {}
        self._subscribed = 0
        self._closed = False

    def emit(self, type: str, data: Any = None, *, source: str | None = None) -> Event | None:  # noqa: A002 - ramure's
        """Append an event and return it; None when the stream is closed."""
        return self.append(Event(type, data, source))

    def append(self, event: Event) -> Event | None:
        """Append `event`, call the subscribers, wake the readers."""
        if self._closed:
            return None
        self._items.append(event)
        self._wake()
        for key, callback in list(self._subscribers.items()):
            self._tell(key, callback, event)
        return event

    def _tell(self, key: int, callback: Callable[[Event], None], event: Event) -> None:
        try:
            callback(event)
        except Exception:
            log.exception("a subscriber of events raised, and gets no more of them")
            self._subscribers.pop(key, None)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def subscribe(self, callback: Callable[[Event], None], *, replay: bool = True) -> Callable[[], None]:
        """Call `callback` at once with every event; one that raises is logged and gets no more.

        Args:
            callback: a plain function.
            replay: first, call it with the events that are there.

        Returns:
            What ends it; may be called more than once.
        """
        self._subscribed += 1
        key = self._subscribed
        self._subscribers[key] = callback
        if replay:
            for event in list(self._items):
                if key in self._subscribers:
                    self._tell(key, callback, event)

        def unsubscribe() -> None:
            self._subscribers.pop(key, None)

        return unsubscribe

    def close(self) -> None:
        """No event follows."""
        self._closed = True
        self._wake()

    @property
    def closed(self) -> bool:
        """No event follows."""
        return self._closed

    def snapshot(self) -> list[Event]:
        """The events so far, oldest first."""
        return list(self._items)

    async def listen_for(
        self,
        type: str | None = None,  # noqa: A002 - ramure's
        *,
        timeout: float | None = None,
        where: Callable[[Event], bool] | None = None,
        replay: bool = False,
    ) -> Event | None:
        """The first event of `type` that `where` accepts; None when the stream is closed or `timeout` is over first.

        Args:
            type: None: any.
            timeout: seconds.
            where: a condition on the event.
            replay: look at the events that are there, too.
        """
        position = 0 if replay else len(self._items)
        try:
            async with asyncio.timeout(timeout):
                async for event in self._from(position):
                    if (type is None or event.type == type) and (where is None or where(event)):
                        return event
        except TimeoutError:
            pass
        return None

    async def _from(self, position: int) -> AsyncIterator[Event]:
        while True:
            while position < len(self._items):
                position += 1
                yield self._items[position - 1]
            if self._closed:
                return
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._from(0)

    def __len__(self) -> int:
        return len(self._items)
