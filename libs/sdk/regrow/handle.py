"""What a body holds of another process: its handle, and the feed of its events.

A handle is only a pid; what it does is done by the scope it is used in (the body of a process, or a client outside).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Protocol

import msgspec

from regrow_protocol.messages import EventRecord

from . import scope
from .codec import Reference, from_raw
from .errors import EventNotSeen


class Event(msgspec.Struct, frozen=True):
    """Something that a process announced.

    Attributes:
        type: `started`, `done`, `failed`, `cancelled`, `restarted`, or the program's own.
        data: JSON; of `done` the result, of `failed` a dict with `reason`, `error`, `code`, `retryable`.
        source: where a bubbled event came from, else None.
        seq: number of the event in the life of its process, from 1.
        time: the process's clock, seconds since 1970.
        final: the process has ended with it.
    """

    type: str
    data: Any = None
    source: str | None = None
    seq: int = 0
    time: float = 0.0
    final: bool = False

    @classmethod
    def of(cls, record: EventRecord) -> Event:
        """The event that was recorded."""
        return cls(record.type, from_raw(record.data), record.source, record.seq, record.time, record.final)


class EventFeed:
    """The events of one process as they have arrived here, in their order, each once."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ended = False
        self._early: dict[int, EventRecord] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._callbacks: list[Callable[[Event], None]] = []
        self._last = 0

    @property
    def last(self) -> int:
        """Number of the last event taken."""
        return self._last

    def push(self, record: EventRecord) -> None:
        """Take an event; a repeat is dropped, one that came too early is held."""
        if record.seq <= self._last:
            return
        self._early[record.seq] = record
        while (following := self._early.pop(self._last + 1, None)) is not None:
            self._last += 1
            self._take(Event.of(following))

    def skip_to(self, seq: int) -> None:
        """Begin after event number `seq`: the earlier ones are known to be of no interest."""
        self._last = max(self._last, seq)

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if event.final:
            self.ended = True
        for callback in list(self._callbacks):
            callback(event)
        self._wake()

    def close(self) -> None:
        """No more events will come."""
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def more(self) -> None:
        """Wait for the next event or the end."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def subscribe(self, callback: Callable[[Event], None], *, replay: bool = True) -> Callable[[], None]:
        """Call `callback` with every event, past ones too with `replay`; returns what ends it."""
        if replay:
            for event in list(self.events):
                callback(event)
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe


class EventStream:
    """`handle.events`: iterate it, from the first event to the end of the process, as often as you like."""

    def __init__(self, feed: EventFeed) -> None:
        self._feed = feed

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._from(0)

    async def _from(self, position: int) -> AsyncIterator[Event]:
        feed = self._feed
        while True:
            while position < len(feed.events):
                position += 1
                yield feed.events[position - 1]
            if feed.ended:
                return
            await feed.more()

    def __len__(self) -> int:
        return len(self._feed.events)

    async def listen_for(
        self,
        type: str,  # noqa: A002 - the event's own word
        where: Callable[[Event], bool] | None = None,
        timeout: float | None = None,
        *,
        replay: bool = True,
    ) -> Event:
        """The first event of `type` that `where` accepts.

        Args:
            type: the event's type.
            where: a condition on the event.
            timeout: seconds, then TimeoutError.
            replay: look at past events too.

        Raises:
            EventNotSeen: the process ended without it.
        """
        async with asyncio.timeout(timeout):
            async for event in self._from(0 if replay else len(self._feed.events)):
                if event.type == type and (where is None or where(event)):
                    return event
        raise EventNotSeen(f"The process ended without an event {type!r}")

    def subscribe(self, callback: Callable[[Event], None], *, replay: bool = True) -> Callable[[], None]:
        """Call `callback` with every event; returns a function that ends it."""
        return self._feed.subscribe(callback, replay=replay)


class HandleScope(Protocol):
    """What a handle needs of the scope it is used in."""

    def watch(self, pid: str) -> EventFeed: ...
    def call(self, pid: str, endpoint: str, kwargs: dict[str, Any], *, wait: bool) -> Awaitable[Any]: ...
    def cancel(self, pid: str, reason: str) -> None: ...
    def result(self, pid: str) -> Awaitable[Any]: ...
    def status_of(self, pid: str) -> str: ...


class ProcessHandle(Reference):
    """A process as another sees it. May be passed to other processes as an argument annotated `ProcessHandle`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"ProcessHandle({self.pid!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessHandle) and other.pid == self.pid

    def __hash__(self) -> int:
        return hash(self.pid)

    @property
    def events(self) -> EventStream:
        """Its events, from the first."""
        return EventStream(scope.current().watch(self.pid))

    def __await__(self) -> Generator[Any, Any, Any]:
        return scope.current().result(self.pid).__await__()

    async def result(self) -> Any:
        """Wait for its end; its result, or ExecutionFailed."""
        return await scope.current().result(self.pid)

    async def call(self, endpoint: str, /, *, wait: bool = False, **kwargs: Any) -> Any:
        """Call an endpoint that it exposes.

        Args:
            endpoint: its name.
            wait: wait for it to be exposed, instead of EndpointNotFound after the process's first turn.
            **kwargs: the endpoint's arguments.

        Raises:
            EndpointNotFound: it exposes none of that name (also a ValueError).
            InvalidArguments: they do not fit.
            ProcessEnded: it has ended.
            CallFailed: the endpoint raised.
        """
        return await scope.current().call(self.pid, endpoint, kwargs, wait=wait)

    def cancel(self, reason: str = "") -> None:
        """Ask it to end as cancelled, its children first."""
        scope.current().cancel(self.pid, reason)

    def status(self) -> str:
        """`running`, `done`, `failed` or `cancelled`, as far as is known here."""
        return scope.current().status_of(self.pid)
