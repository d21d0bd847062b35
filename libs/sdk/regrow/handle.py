"""What a body holds of another process: its handle, and the feed of its events.

A handle is only a pid; what it does is done by the scope it is used in (the body of a process, or a client outside).
"""

from __future__ import annotations

import asyncio
import contextvars
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import msgspec
from regrow_protocol import subjects
from regrow_protocol.messages import EventRecord, Failure

from . import nested, scope
from .codec import Reference, from_raw, handles_are, to_raw
from .errors import EventNotSeen, ProcessNotFound, sendable_text

if TYPE_CHECKING:
    from .agents import Agent, Grant
    from .failures import ProcessFailure


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
    """The events of one process as they have arrived here, in their order, each once.

    Callbacks run on the loop they were subscribed on, so they are in the scope of whoever subscribed; one that raises
    is logged and concerns nobody else, as with asyncio's own.

    Args:
        since: the clock when the process was asked for its events, seconds since 1970; earlier ones are past.
    """

    def __init__(self, since: float = 0.0) -> None:
        self.since = since
        self.events: list[Event] = []
        self.ended = False
        self._early: dict[int, EventRecord] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._subscriptions: dict[int, Callable[[Event], None]] = {}
        self._subscribed = 0
        self._last = 0

    def forget(self) -> None:
        """Its process has left memory."""
        self._subscriptions.clear()
        self._waiters.clear()

    @property
    def last(self) -> int:
        """Number of the last event taken."""
        return self._last

    def push(self, record: EventRecord) -> None:
        """Take an event; a repeat is dropped, one that came too early is held."""
        if record.seq <= self._last:
            return
        if not self._last and record.incarnation and record.type == "restarted" and record.meta is not None:
            # A later incarnation knows no events of the earlier ones: they are in the stream of events only.
            self._last = record.seq - 1
        self._early[record.seq] = record
        while (following := self._early.pop(self._last + 1, None)) is not None:
            self._last += 1
            self._take(Event.of(following))

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if event.final:
            self.ended = True
        for deliver in list(self._subscriptions.values()):
            deliver(event)
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
        """Call `callback` soon with every event, past ones too with `replay`; returns what ends it."""
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        self._subscribed += 1
        key = self._subscribed

        def run(event: Event) -> None:
            if key in self._subscriptions:
                callback(event)

        def deliver(event: Event) -> None:
            if replay or event.time >= self.since:
                loop.call_soon(run, event, context=context)

        self._subscriptions[key] = deliver
        if replay:
            for event in self.events:
                deliver(event)

        def unsubscribe() -> None:
            self._subscriptions.pop(key, None)

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

    @property
    def so_far(self) -> list[Event]:
        """Those that have come here, oldest first."""
        return list(self._feed.events)

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
            replay: look at past events too: those that are here, or were announced before this process asked for any.

        Raises:
            EventNotSeen: the process ended without it.
        """
        feed = self._feed
        position = 0 if replay else len(feed.events)
        async with asyncio.timeout(timeout):
            while True:
                while position < len(feed.events):
                    event = feed.events[position]
                    position += 1
                    wanted = event.type == type and (replay or event.time >= feed.since)
                    if wanted and (where is None or where(event)):
                        return event
                if feed.ended:
                    break
                await feed.more()
        raise EventNotSeen(f"The process ended without an event {type!r}")

    def subscribe(self, callback: Callable[[Event], None], *, replay: bool = True) -> Callable[[], None]:
        """Call `callback` with every event, in the scope of this process; returns a function that ends it.

        Args:
            callback: a plain function. What it raises is logged and ends nothing.
            replay: call it with past events too, as `listen_for`.
        """
        return self._feed.subscribe(callback, replay=replay)


Wait: TypeAlias = bool | Literal["restart"]
"""What a call waits for: nothing, its endpoint, or that and a restart."""


class HandleScope(Protocol):
    """What a handle needs of the scope it is used in."""

    def watch(self, pid: str) -> EventFeed: ...
    def call(self, pid: str, endpoint: str, kwargs: dict[str, Any], *, wait: Wait) -> Awaitable[Any]: ...
    def cancel(self, pid: str, reason: str) -> None: ...
    def result(self, pid: str) -> Awaitable[Any]: ...
    def status_of(self, pid: str) -> str: ...
    def failure_of(self, pid: str) -> Failure | None: ...
    def signal(self, pid: str, name: str, data: Any) -> None: ...


class ProcessHandle(Reference):
    """A process as another sees it. May be passed to other processes as an argument annotated `ProcessHandle`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"ProcessHandle({self.pid!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessHandle) and other.pid == self.pid

    def __hash__(self) -> int:
        return zlib.crc32(self.pid.encode())  # the same in every interpreter, and so the order of a set of handles

    @property
    def events(self) -> EventStream:
        """Its events, from the first."""
        return EventStream(scope.current().watch(self.pid))

    def __await__(self) -> Generator[Any, Any, Any]:
        return scope.current().result(self.pid).__await__()

    async def result(self) -> Any:
        """Wait for its end; its result, or ExecutionFailed."""
        return await scope.current().result(self.pid)

    async def call(self, endpoint: str, /, *, wait: Wait = False, **kwargs: Any) -> Any:
        """Call an endpoint that it exposes.

        Args:
            endpoint: its name.
            wait: wait for it to be exposed, instead of EndpointNotFound after the process's first turn. With "restart"
                the call also survives a restart of the process, instead of failing with ProcessEnded: its next
                incarnation begins it anew, so what it does may be done twice.
            **kwargs: the endpoint's arguments.

        Raises:
            EndpointNotFound: it exposes none of that name (also a ValueError).
            InvalidArguments: they do not fit.
            ProcessEnded: it has ended.
            CallFailed: the endpoint raised.
        """
        if not isinstance(endpoint, str):
            raise TypeError(f"call() needs the name of an endpoint, not {endpoint!r}")
        return await scope.current().call(self.pid, endpoint, kwargs, wait=wait)

    def signal(self, name: str, data: Any = None, /, **fields: Any) -> None:
        """Send it a signal, which its `receive(name)` returns the data of. It is kept until then; there is no answer.

        Args:
            name: of the signal, 1 to 128 characters.
            data: what `codec` can send.
            **fields: the data as an object, in place of `data`.
        """
        if not isinstance(name, str):
            raise TypeError(f"signal() needs the name of a signal, not {name!r}")
        if fields and data is not None:
            raise TypeError("signal() takes its data, or fields of it, not both")
        subjects.token(name)
        scope.current().signal(self.pid, name, fields or data)

    @property
    def agents(self) -> dict[str, Agent]:
        """Its agents by name, as far as its events (`agent_started`) have come here."""
        from .agents.agent import started

        return started(self.events.so_far)

    async def attach(
        self,
        agent: Agent,
        only: Sequence[str] | None = None,
        prefix: str = "",
        *,
        rate: float = 0.0,
        expires: float | None = None,
    ) -> Grant:
        """Make endpoints of this process tools of an agent; they answer in the process's scope.

        Args:
            agent: of any process of the app.
            only: names of endpoints; None: all, those that are exposed later too.
            prefix: put before their names.
            rate: calls per minute in all; 0: any number.
            expires: seconds until the agent loses them again; None: never.

        Returns:
            The grant, which can be revoked.
        """
        from .agents.connecting import attach

        return await attach(self.pid, agent, only, prefix, rate, expires)

    def cancel(self, reason: str = "") -> None:
        """Ask it to end as cancelled, its children first."""
        scope.current().cancel(self.pid, sendable_text(reason))

    def status(self) -> str:
        """`running`, `done`, `failed` or `cancelled`, as far as is known here."""
        return scope.current().status_of(self.pid)

    @property
    def failure(self) -> ProcessFailure | None:
        """Why it failed, or its last incarnation did, as far as is known here; None when it has not."""
        found = scope.current().failure_of(self.pid)
        if found is None:
            return None
        from .failures import ProcessFailure

        return ProcessFailure.of(found, self.pid)

    def respawn(self, **overrides: Any) -> ProcessHandle:
        """Start another process as this one, which has failed, was started.

        Args:
            **overrides: arguments of its function that shall differ, and options of `spawn`.

        Raises:
            ProcessNotFound: it is not known here that it failed, and so not what it was.
            InvalidArguments: an override does not fit.
        """
        failure = self.failure
        here = scope.current()
        type_ = nested.find(here.env.types, failure.type) if failure is not None else None
        if failure is None or type_ is None or failure.args is None:
            raise ProcessNotFound(
                f"It is not known here that process {self.pid} has failed",
                hint="respawn() a child, or a process whose `events` you follow, after its `failed`",
            )
        own = {name: value for name, value in overrides.items() if type_.signature.takes(name)}
        options = {name: value for name, value in overrides.items() if name not in own}
        args, kwargs = type_.signature.decode(to_raw(failure.args | own, f"An argument of {type_.name}()"))
        return here.spawn(type_, tuple(args), kwargs | options)


handles_are(ProcessHandle)
