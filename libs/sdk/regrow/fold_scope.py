"""The scope of a deterministic body: what the public API calls, as operations of its process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from msgspec import Raw, Struct
from regrow_protocol import ids
from regrow_protocol import messages as m
from regrow_protocol.errors import RegrowError
from regrow_protocol.images import Image
from regrow_protocol.messages import Failure

from .codec import to_raw
from .commanding import Asked, Feed
from .definition import ProcessType, image_of
from .errors import CallFailed, sendable_text
from .handle import EventFeed, ProcessHandle, Wait
from .operations import Pending, Step, StepPolicy, source_line
from .outcomes import outcome_of
from .publication import described
from .supervision.policy import Alone, Keeper, RestartPolicy

if TYPE_CHECKING:
    from regrow_protocol.messages import Op

    from .endpoints import Endpoints
    from .limits import Limits
    from .links import Links
    from .loop import DeterministicLoop
    from .mailbox import Mailbox
    from .operations import Env
    from .process import Process
    from .publication import Publication
    from .relations import Relations


class FoldScope:
    """Mixed into `Process`; each method is an operation of its body, or asks what is known of another process."""

    if TYPE_CHECKING:  # what `Process` has
        env: Env
        pid: str
        incarnation: int
        clock: float
        loop: DeterministicLoop
        type: ProcessType[Any, Any] | None
        start: m.Start | None
        tags: dict[str, str]
        steps: dict[int, Step]
        new_local: list[int]
        dropped_local: list[int]
        relations: Relations
        endpoints: Endpoints
        publication: Publication
        mailbox: Mailbox
        limits: Limits
        links: Links

        def operation(self, kind: str, name: str, args: bytes | Raw = b"") -> Op: ...
        def announce(self, type_: str, data: Raw, *, meta: m.ProcessMeta | None = None, n: int = 0) -> None: ...
        def meta(self) -> m.ProcessMeta: ...
        def emit_raw(self, type_: str, raw: Raw, source: str | None = None) -> None: ...
        def decide(self, status: m.Status, value: Raw, failure: Failure | None, lines: Sequence[str] = ()) -> None: ...

    def spawn(
        self,
        type_: ProcessType[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        restart: RestartPolicy = "temporary",
        keeper: Keeper | None = None,
    ) -> ProcessHandle:
        if (over := self.limits.child()) is not None:
            raise over
        bound = type_.bind(args, kwargs)
        op = self.operation("spawn", type_.name, bound.args)
        pid = ids.derived_id(ids.PROCESS, f"{self.pid}.{self.incarnation}.{op.n}", self.clock)
        pending = Pending(op, self.loop.create_future(), type_.signature.result, pid)
        if keeper is not None:
            bound.restart = restart
        elif bound.restart != "temporary":
            keeper = Alone(cast("Process", self), bound.backoff)
        self.relations.start_child(pid, type_.name, bound, op, pending, keeper=keeper)
        return ProcessHandle(pid)

    async def run_child(self, type_: ProcessType[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a child as a call; if the caller is cancelled, so is the child."""
        handle = self.spawn(type_, args, kwargs)
        child = self.relations.children[handle.pid]
        child.feed_wanted = False
        try:
            return await child.pending.future
        except asyncio.CancelledError:
            if not child.ended:
                self.cancel(handle.pid, "its caller was cancelled")
            raise

    def call(self, pid: str, endpoint: str, kwargs: dict[str, Any], *, wait: Wait = False) -> Awaitable[Any]:
        raw = to_raw(kwargs, f"An argument of {endpoint}()")
        op = self.operation("call", endpoint, raw)
        pending = Pending(op, self.loop.create_future(), Any, CallFailed)
        self.relations.call(pid, endpoint, raw, op, pending, wait=wait)
        return pending.future

    def command(
        self, name: str, subject: str, args: Struct, type_: Any, base: type[RegrowError], feed: Feed | None = None,
        *, compared: bytes | None = None,
    ) -> Asked:  # fmt: skip
        """Ask a service for something; its answer is of `type_`, a failure is raised as `base`.

        `compared` is what a replay must make again, where that is less than all of `args`.
        """
        future = self.loop.create_future()
        pending = partial(Pending, future=future, type_=type_, base=base)
        op = self.relations.command(name, subject, Raw(m.encode(args)), pending, compared=compared)
        if feed is not None:
            self.relations.commands.feed(op.n, feed)
        return Asked(f"{self.pid}.{self.incarnation}.{op.n}", future)

    def tell(self, name: str, subject: str, args: Struct, *, compared: bytes | None = None) -> None:
        """Ask a service for something that has no answer."""
        self.relations.tell(name, subject, Raw(m.encode(args)), compared)

    @property
    def app(self) -> str:
        """Name of its app."""
        return self.env.app

    @property
    def stall_after(self) -> float | None:
        """Seconds without progress after which it counts as stalled: turns of its agents are progress too."""
        return self.type.options.stall_after if self.type is not None else None

    @property
    def given_image(self) -> Image | None:
        """The image that its start gave it as `machine=`, or else its type."""
        return image_of(self.start, self.type) if self.start is not None else None

    @property
    def snapshot_on_failure(self) -> bool:
        """Whether all its machines are snapshotted when it fails."""
        return self.type is not None and self.type.options.snapshot_on_failure

    def watch(self, pid: str) -> EventFeed:
        return self.relations.watch(pid)

    def cancel(self, pid: str, reason: str = "") -> None:
        self.relations.cancel(pid, reason)

    def set_tags(self, tags: dict[str, str | None]) -> None:
        op = self.operation("tags", "", Raw(m.encode(tags)))
        merged = {**self.tags, **tags}
        self.tags = {name: value for name, value in merged.items() if value is not None}
        self.announce("tagged", to_raw(self.tags), meta=self.meta(), n=op.n)

    def link(self, pid: str) -> None:
        self.links.link(pid)

    def unlink(self, pid: str) -> None:
        self.links.unlink(pid)

    def signal(self, pid: str, name: str, data: Any) -> None:
        raw = to_raw(data, f"The data of signal {name!r}")
        self.relations.signal(pid, name, raw)

    async def receive(self, name: str, type_: Any) -> Any:
        op = self.operation("receive", name)
        reader = Pending(op, self.loop.create_future(), type_)
        self.mailbox.read(name, reader)
        try:
            return await reader.future
        finally:
            self.mailbox.leave(name, reader)

    async def result(self, pid: str) -> Any:
        child = self.relations.children.get(pid)
        if child is not None:
            return await asyncio.shield(child.pending.future)
        feed = self.watch(pid)
        while not feed.ended:
            await feed.more()
        return outcome_of(feed, pid)

    def failure_of(self, pid: str) -> Failure | None:
        return self.relations.failure_of(pid)

    def status_of(self, pid: str) -> str:
        return self.relations.status_of(pid)

    def emit(self, type_: str, data: Any, source: str | None = None) -> None:
        self.emit_raw(type_, to_raw(data, f"The data of event {type_!r}"), source)

    def bubble(self, pid: str, source: str | None) -> Callable[[], None]:
        if pid == self.pid:
            raise ValueError("a process cannot bubble its own events: each would come back as another")
        source = sendable_text(source) if source is not None else None

        def forward(event: Any) -> None:
            self.emit(event.type, event.data, event.source or source)

        return self.watch(pid).subscribe(forward)

    def expose(self, function: Callable[..., Coroutine[Any, Any, Any]], name: str) -> None:
        op = self.operation("expose", name)
        self.endpoints.expose(name, function)
        self.publication.exposed(described(function, name), op.n)

    def finish(self, status: m.Status, value: Any, failure: Failure | None) -> None:
        raw = to_raw(value, "The result given to done()")
        self.operation(status, "", raw)
        self.decide(status, raw, failure, [source_line(sys._getframe(1))])

    async def step(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], policy: StepPolicy
    ) -> Any:
        step = Step.of(self, function, args, kwargs, policy)
        n = step.pending.op.n
        self.steps[n] = step
        self.new_local.append(n)
        try:
            return await step.pending.future
        except asyncio.CancelledError:
            if self.steps.pop(n, None) is not None:
                self.dropped_local.append(n)
            raise
