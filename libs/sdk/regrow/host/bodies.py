"""Runs a `restart` body on the host's loop: an ordinary coroutine whose operations are recorded as acts of its process.

Before it begins a host claims it in the inbox of its process (an act numbered 0, which the fold ignores): the first
claim of an incarnation is the only one whose host runs the body. So a body never runs twice in one incarnation, whoever
owns the partition.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import random as _random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct
from regrow_protocol import ids, values
from regrow_protocol import messages as m
from regrow_protocol.bus import PubAck
from regrow_protocol.errors import RegrowError
from regrow_protocol.images import Image
from regrow_protocol.messages import Failure, Op

from .. import restart, scope
from ..belongings import Belongings
from ..codec import NULL, Signature, to_raw
from ..commanding import Asked, Feed
from ..definition import ProcessType, image_of
from ..errors import CallFailed, ContinueAsNew, ExecutionFailed, ProcessGone, failure_of
from ..handle import EventFeed, ProcessHandle, Wait
from ..operations import Pending, Step, StepPolicy
from ..outcomes import last_failure, outcome_of
from ..process import Process
from ..publication import described
from .publishing import Publishing
from .steps import StepRunner

log = logging.getLogger("regrow.host")

_Waiting: TypeAlias = tuple[int, list[bytes], Callable[[], None]]
"""(number, large values, publish) of an act."""


class _Claim(Struct):
    who: str


def claim_message(incarnation: int, who: str) -> bytes:
    """The claim of `who` on the body of `incarnation`."""
    return m.encode(m.Act(incarnation=incarnation, m=0, what="claim", data=Raw(m.encode(_Claim(who)))))


def claim_of(message: m.Input) -> tuple[int, str] | None:
    """(incarnation, who) when the input is a claim."""
    if type(message) is not m.Act or message.m or message.what != "claim":
        return None
    try:
        return message.incarnation, m.decode(message.data, _Claim).who
    except msgspec.MsgspecError:
        return None


class BodyScope:
    """The scope of one incarnation of a `restart` body."""

    replaying = False

    def __init__(
        self, process: Process, steps: StepRunner, may_start: Callable[[], Awaitable[None]], publishing: Publishing
    ) -> None:
        assert process.start is not None
        assert process.type is not None
        self.pid = process.pid
        self.incarnation = process.incarnation
        self.start = process.start
        self.env = process.env
        self.type: ProcessType[Any, Any] = process.type
        self.random = _random.Random()  # noqa: S311 - not for secrets
        self._process = process
        self._publishing = publishing
        self._steps = steps
        self._may_start = may_start
        self._m = 0
        self._pending: dict[int, Pending] = {}
        self._pieces: dict[int, Feed] = {}
        self._feeds: dict[str, EventFeed] = {}
        self._feed_of: dict[int, EventFeed] = {}
        self._children: dict[str, tuple[Pending, int]] = {}
        self._endpoints: dict[str, tuple[Callable[..., Coroutine[Any, Any, Any]], Signature]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self.belongings = Belongings()
        self._outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._abandoned = False
        self._cancelled = False
        self._begun = False
        self._storing: deque[_Waiting] | None = None
        self._storer: asyncio.Task[None] | None = None
        context = contextvars.copy_context()
        context.run(scope.ambient.set, self)
        self._context = context
        self._task = asyncio.get_running_loop().create_task(self._run(), context=context, name=f"body {self.pid}")

    @property
    def clock(self) -> float:
        """Real time: a `restart` body is not replayed."""
        return time.time()

    @property
    def tags(self) -> dict[str, str]:
        """As its process has them now."""
        return self._process.tags

    async def _run(self) -> None:
        self._begun = True
        outcome = restart.Outcome()
        try:
            outcome.value = await self._result()
        except asyncio.CancelledError:
            outcome = restart.Outcome("cancelled", NULL, Failure("CancelledError", "cancelled", "cancelled"))
        except ContinueAsNew as again:
            await self._close_calls()
            if not self._abandoned:
                self._act("continue", again.args_raw)
            return
        except BaseException as error:  # noqa: BLE001 - whatever ends the body is the process's outcome
            outcome = restart.Outcome("failed", NULL, failure_of(error))
        await self._close_calls()
        if not self._abandoned:
            self._act("end", outcome)

    async def _close_calls(self) -> None:
        for task in self._calls:
            task.cancel()
        if self._calls:
            await asyncio.wait(self._calls)

    async def _result(self) -> Raw:
        if self._cancelled:
            raise asyncio.CancelledError
        asyncio.get_running_loop().call_soon(self._first_turn_over)
        return await self.type.perform(self.start.args)

    def _first_turn_over(self) -> None:
        if not self._abandoned:
            self._act("turn", None)

    def abandon(self) -> None:
        """Stop without a word: another host goes on. What its `finally` blocks ask for is refused."""
        self._abandoned = True
        for task in (self._task, self._storer, *self._calls):
            if task is not None:
                task.cancel()

    @property
    def abandoned(self) -> bool:
        """Another host goes on, or another incarnation here: nobody listens to this body any more."""
        return self._abandoned

    def interrupt(self) -> None:
        """Cancel the body; one that has not begun never does."""
        self._cancelled = True
        if self._begun:
            self._task.cancel()

    def _act(self, what: str, data: Struct | Raw | None) -> int:
        if self._abandoned:
            raise ProcessGone
        self._m += 1
        raw = data if isinstance(data, Raw) else NULL if data is None else Raw(m.encode(data))
        act = m.Act(incarnation=self.incarnation, m=self._m, what=what, data=raw)
        payload = m.encode(act)
        blobs: list[bytes] = []
        if len(payload) > m.MAX_INLINE:
            act, blobs = values.deflate(act)
            payload = m.encode(act)
        put = functools.partial(
            self._publishing.put,
            self.pid,
            payload,
            f"{self.pid}.{self.incarnation}.b{self._m}",
            done=functools.partial(self._recorded, self._m, what),
        )
        if self._storing is not None:
            self._storing.append((self._m, blobs, put))
        elif blobs:
            self._storing = deque([(self._m, blobs, put)])
            self._storer = asyncio.get_running_loop().create_task(self._store(self._storing))
        else:
            put()
        return self._m

    async def _store(self, waiting: deque[_Waiting]) -> None:
        """Acts wait for large values, in their order."""
        while waiting:
            number, blobs, put = waiting[0]
            try:
                await self._publishing.store(blobs)
            except RegrowError as error:
                self._refused(number, "an operation", error)
                return
            put()
            waiting.popleft()
        self._storing = None

    def _recorded(self, number: int, what: str, outcome: PubAck | BaseException) -> None:
        if isinstance(outcome, BaseException):
            self._refused(number, what, outcome)

    def _refused(self, number: int, what: str, error: BaseException) -> None:
        """Without this act the fold would wait for it for ever: in its place the body ends."""
        if self._abandoned:
            return
        log.error("process %s: %s of its body was refused: %s", self.pid, what, error)
        self.abandon()
        outcome = restart.Outcome("failed", NULL, failure_of(error))
        act = m.Act(incarnation=self.incarnation, m=number, what="end", data=Raw(m.encode(outcome)))
        self._publishing.put(self.pid, m.encode(act), f"{self.pid}.{self.incarnation}.b{number}.e")

    def deliver(self, delivery: restart.Delivery) -> None:
        """Take what the fold hands over."""
        if delivery.what == "cancel":
            self.interrupt()
        elif delivery.what == "result":
            pending = self._pending.pop(delivery.m, None)
            self._pieces.pop(delivery.m, None)
            if pending is not None:
                pending.settle(delivery.value, delivery.error)
        elif delivery.what == "chunk" and isinstance(delivery.value, Raw):
            pieces = self._pieces.get(delivery.m)
            if pieces is not None:
                chunk = m.decode(delivery.value, restart.ChunkDelivery)
                pieces.push(chunk.channel, chunk.offset, chunk.data)
        elif delivery.what == "event" and isinstance(delivery.value, Raw):
            feed = self._feed_of.get(delivery.m)
            if feed is not None:
                try:
                    self._context.run(feed.push, m.decode(delivery.value, m.EventRecord))
                except Exception:
                    log.exception("process %s: a callback for events raised", self.pid)
        elif delivery.what == "call" and isinstance(delivery.value, Raw):
            call = m.decode(delivery.value, _EndpointCall)
            task = asyncio.get_running_loop().create_task(self._serve(delivery.m, call), context=self._context.copy())
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def _serve(self, key: int, call: _EndpointCall) -> None:
        outcome = restart.Outcome(key=key)
        try:
            function, signature = self._endpoints[call.endpoint]
            args, kwargs = signature.decode(call.args)
            outcome.value = to_raw(await function(*args, **kwargs), f"The result of {call.endpoint}()")
        except ProcessGone:
            return
        except Exception as error:  # noqa: BLE001 - the caller's to handle
            outcome.error = failure_of(error)
        if not self._abandoned:
            self._act("answer", outcome)

    def _expect(self, number: int, kind: str, name: str, type_: Any, base: Any) -> Pending:
        op = Op(number, kind, name, "", "")
        pending = Pending(op, asyncio.get_running_loop().create_future(), type_, base)
        self._pending[number] = pending
        return pending

    # The scope that the public API calls ------------------------------------------------------------------------------

    def spawn(self, type_: ProcessType[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ProcessHandle:
        bound = type_.bind(args, kwargs)
        pid = ids.derived_id(ids.PROCESS, f"{self.pid}.{self.incarnation}.b{self._m + 1}", self.clock)
        number = self._act("spawn", restart.Spawn(pid=pid, type=type_.name, **msgspec.structs.asdict(bound)))
        pending = self._expect(number, "spawn", type_.name, type_.signature.result, pid)
        self._children[pid] = (pending, number)
        return ProcessHandle(pid)

    def when_ended(self, pid: str, callback: Callable[[asyncio.Future[Any]], None]) -> None:
        """Call `callback` with the outcome of a child when it has ended."""
        self._children[pid][0].future.add_done_callback(callback)

    async def run_child(self, type_: ProcessType[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handle = self.spawn(type_, args, kwargs)
        try:
            return await self._children[handle.pid][0].future
        except asyncio.CancelledError:
            self.cancel(handle.pid, "its caller was cancelled")
            raise

    def call(self, pid: str, endpoint: str, kwargs: dict[str, Any], *, wait: Wait = False) -> Awaitable[Any]:
        raw = to_raw(kwargs, f"An argument of {endpoint}()")
        number = self._act("call", restart.CallAct(pid, endpoint, raw, wait=bool(wait), again=wait == "restart"))
        return self._expect(number, "call", endpoint, Any, CallFailed).future

    def command(
        self, name: str, subject: str, args: Struct, type_: Any, base: type[RegrowError], feed: Feed | None = None,
        *, compared: bytes | None = None,
    ) -> Asked:  # fmt: skip
        del compared  # it is the recorded act that is folded again
        raw = Raw(m.encode(args))
        number = self._act("command", restart.CommandAct(name, subject, raw, feed is not None))
        if feed is not None:
            self._pieces[number] = feed
        return Asked(
            f"{self.pid}.{self.incarnation}.b{number}", self._expect(number, "command", name, type_, base).future
        )

    def tell(self, name: str, subject: str, args: Struct, *, compared: bytes | None = None) -> None:
        del compared
        self._act("tell", restart.CommandAct(name, subject, Raw(m.encode(args))))

    def background(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside the body; it is cancelled with the calls that are under way."""

        async def run() -> None:
            with suppress(ProcessGone):
                await coro

        task = asyncio.get_running_loop().create_task(run(), context=self._context.copy())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    @property
    def inputs_since_start(self) -> int:
        return self._process.inputs_since_start

    @property
    def app(self) -> str:
        return self.env.app

    @property
    def stall_after(self) -> float | None:
        return self.type.options.stall_after

    @property
    def given_image(self) -> Image | None:
        return image_of(self.start, self.type)

    @property
    def snapshot_on_failure(self) -> bool:
        return self.type.options.snapshot_on_failure

    def set_tags(self, tags: dict[str, str | None]) -> None:
        self._act("tags", Raw(m.encode(tags)))

    def link(self, pid: str) -> None:
        self._act("link", restart.Target(pid))

    def unlink(self, pid: str) -> None:
        self._act("unlink", restart.Target(pid))

    def signal(self, pid: str, name: str, data: Any) -> None:
        self._act("signal", restart.SignalAct(pid, name, to_raw(data, f"The data of signal {name!r}")))

    async def receive(self, name: str, type_: Any) -> Any:
        number = self._act("receive", restart.Target(name))
        reader = self._expect(number, "receive", name, type_, CallFailed)
        try:
            return await reader.future
        except asyncio.CancelledError:
            self._pending.pop(number, None)
            if not self._abandoned:
                self._act("leave", restart.Target(name, str(number)))
            raise

    def watch(self, pid: str) -> EventFeed:
        feed = self._feeds.get(pid)
        if feed is None:
            feed = self._feeds[pid] = EventFeed()
            self._feed_of[self._act("watch", restart.Target(pid))] = feed
        return feed

    def cancel(self, pid: str, reason: str = "") -> None:
        self._act("cancel", restart.Target(pid, reason))

    async def result(self, pid: str) -> Any:
        child = self._children.get(pid)
        if child is not None:
            return await asyncio.shield(child[0].future)
        feed = self.watch(pid)
        while not feed.ended:
            await feed.more()
        return outcome_of(feed, pid)

    def failure_of(self, pid: str) -> Failure | None:
        child = self._children.get(pid)
        if child is not None and child[0].future.done() and not child[0].future.cancelled():
            error = child[0].future.exception()
            if isinstance(error, ExecutionFailed):
                return error.recorded
        feed = self._feeds.get(pid)
        return last_failure(feed) if feed is not None else None

    def status_of(self, pid: str) -> str:
        child = self._children.get(pid)
        if child is None or not child[0].future.done():
            return "running"
        if child[0].future.cancelled():
            return "cancelled"
        error = child[0].future.exception()
        return "done" if error is None else "cancelled" if type(error).__name__ == "ExecutionCancelled" else "failed"

    def emit(self, type_: str, data: Any, source: str | None = None) -> None:
        self._act("emit", restart.EmitAct(type_, to_raw(data, f"The data of event {type_!r}"), source))

    def bubble(self, pid: str, source: str | None) -> Callable[[], None]:
        return self.watch(pid).subscribe(lambda event: self.emit(event.type, event.data, event.source or source))

    def expose(self, function: Callable[..., Coroutine[Any, Any, Any]], name: str) -> None:
        self._endpoints[name] = (function, Signature(function, f"{name.rpartition('/')[2]}()"))
        self._act("expose", restart.ExposeAct(name, described(function, name)))

    def finish(self, status: m.Status, value: Any, failure: Failure | None) -> None:
        raw = to_raw(value, "The result given to done()")
        self._act("decide", restart.Outcome(status, raw, failure))
        if not self._outcome.done():
            pending = Pending(Op(0, status, "", "", ""), self._outcome, self.type.signature.result, self.pid)
            pending.settle(raw if failure is None else UNSET, failure)

    async def wait(self) -> Any:
        return await asyncio.shield(self._outcome)

    async def step(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], policy: StepPolicy
    ) -> Any:
        """Run it here and now: a `restart` body has no record to keep it in."""
        name = policy.name or getattr(function, "__qualname__", type(function).__name__)
        pending = Pending(Op(0, "step", name, "", ""), asyncio.get_running_loop().create_future(), Any)
        pending.type_ = Step.type_of(function)
        value, failure, _ = await self._steps.run(Step(pending, function, args, kwargs, policy), self._may_start)
        pending.settle(value, failure)
        return await pending.future


class _EndpointCall(Struct):
    endpoint: str
    args: Raw
