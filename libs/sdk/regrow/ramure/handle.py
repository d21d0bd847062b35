"""`ProcessHandle` as ramure has it. Where the process runs in this interpreter it is used directly, as there."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from .. import errors, handle, scope
from ..errors import EndpointNotFound, ExecutionCancelled, ProcessEnded
from . import session
from .stream import Event, Stream
from .types import ExecutionFailed

if TYPE_CHECKING:
    from ..agents import Grant
    from ..handle import EventFeed, Wait
    from .agent import Agent
    from .local import Local


class ProcessHandle(handle.ProcessHandle):
    """A process that was spawned.

    Attributes:
        task: of a root that was spawned outside all processes, else None.
    """

    __slots__ = ("_local", "_stream", "task")

    def __init__(self, pid: str, local: Local | None = None, task: asyncio.Future[Any] | None = None) -> None:
        super().__init__(pid)
        self._local = local if session.here() or task is not None else None
        self._stream: Stream | None = None
        self.task = task

    @property
    def events(self) -> Stream:  # pyright: ignore[reportIncompatibleMethodOverride] - ramure's stream, with its ways
        """Its events, from the first; `done`, `failed` or `cancelled` is the last."""
        if self._local is not None:
            return self._local.events
        if self._stream is None:
            self._stream = _stream_of(scope.current().watch(self.pid))
        return self._stream

    @property
    def agents(self) -> dict[str, Any]:
        """The agents that it has made so far, by name."""
        return dict(self._local.agents) if self._local is not None else {}

    async def call(self, endpoint: str, /, *, wait: Wait = False, **kwargs: Any) -> Any:
        """Call an endpoint that it exposes; raises what that raises, and EndpointNotFound (a ValueError)."""
        if self._local is None:
            return await super().call(endpoint, wait=wait, **kwargs)
        local = await self._begun()
        function = local.endpoints.get(endpoint)
        if function is None:
            raise EndpointNotFound(f"No endpoint {endpoint!r}", hint=f"it exposes: {', '.join(local.endpoints)}")
        return await local.invoke(function, kwargs)

    async def attach(  # pyright: ignore[reportIncompatibleMethodOverride] - ramure's agents
        self, agent: Agent, *, only: Sequence[str] | None = None, prefix: str = "", **limits: Any
    ) -> Grant:
        """Make its endpoints tools of `agent`; they answer in its scope.

        Args:
            agent: of any process.
            only: names of endpoints; None: all.
            prefix: put before their names.
            **limits: `rate=` and `expires=`, as `regrow` has them.

        Returns:
            The grant, which can be revoked.
        """
        if self._local is not None:
            local = await self._begun()
            if missing := [name for name in only or () if name not in local.endpoints]:
                raise EndpointNotFound(f"No endpoint {missing[0]!r}")
        return await super().attach(agent.handle, only, prefix, **limits)

    async def _begun(self) -> Local:
        local = self._local
        assert local is not None
        await local.begun.wait()
        if local.outcome is not None:
            raise ProcessEnded(f"Process {self.pid} has ended")
        return local

    async def result(self) -> Any:
        """Wait for its end; its result, or what it raised."""
        if self._local is None:
            try:
                return await super().result()
            except errors.ExecutionFailed as error:
                raise failed(error) from error
        await asyncio.shield(self._local.ended)
        return outcome_of(self._local)

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.result().__await__()

    def cancel(self, reason: str = "") -> None:
        """Ask it to end as cancelled, its children first."""
        if self.task is not None:
            self.task.cancel()
        else:
            super().cancel(reason)


def settle(local: Local, future: asyncio.Future[Any]) -> None:
    """A process has ended, as its record says: `future` has its result or exception. The first word counts."""
    if future.cancelled():
        local.end("cancelled", asyncio.CancelledError())
    elif (error := future.exception()) is None:
        local.end("done", future.result())
    else:
        local.end("cancelled" if isinstance(error, ExecutionCancelled) else "failed", error)
    local.close()


def outcome_of(local: Local) -> Any:
    """The result of a process that has ended, or its failure raised."""
    assert local.outcome is not None
    kind, value = local.outcome
    if kind == "done":
        return value
    if kind == "cancelled":
        raise ExecutionCancelled("cancelled", error="CancelledError", pid=local.pid)
    raise failed(value)


def failed(error: BaseException) -> BaseException:
    """What a process raised, with ramure's class for what `fail` makes."""
    if not isinstance(error, errors.ExecutionFailed) or isinstance(error, ExecutionFailed | ExecutionCancelled):
        return error
    made = ExecutionFailed(
        error.reason, error=error.error, pid=error.pid, retryable=error.retryable, snapshots=error.snapshots
    )
    made.recorded = error.recorded
    return made


def _stream_of(feed: EventFeed) -> Stream:
    """The events of a process that runs elsewhere."""
    stream = Stream()

    def take(event: handle.Event) -> None:
        if event.type == "started" and event.seq == 1:
            return
        data = event.data
        if event.type == "failed" and isinstance(data, dict):
            data = data.get("reason")
        stream.append(Event(event.type, data, event.source))
        if event.final:
            stream.close()

    feed.subscribe(take)
    return stream
