"""A process is a deterministic fold over its inbox: `apply` takes the next input and collects what the process sends.

Nothing here does I/O or knows a clock. The same inputs, in the same order with the same times, always give the same
outputs with the same ids `<pid>.<incarnation>.<n>`; a host may suppress those that were published before. What the body
asks of its host (steps to run, timers to arm) stands in `steps` and `timers` until its outcome comes back as an input;
the first one counts.

The first of done, fail, timeout, cancel and host_lost in inbox order decides how the process ends. It ends when its
body has returned, its other tasks were cancelled and have ended, the generators that it abandoned are closed, and its
children, cancelled too, have ended; from the first of these on, its endpoints answer ProcessEnded.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
from array import array
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw
from regrow_protocol import messages as m
from regrow_protocol.messages import Failure, Op, Ref

from . import endpoints, nested
from .admission import Admission
from .belongings import Belongings
from .codec import NULL, from_raw, to_raw
from .definition import ProcessType
from .divergence import Diverged
from .endings import Endings
from .errors import (
    ContinueAsNew,
    InvalidArguments,
    ProcessGone,
    execution_failed,
    failure_of,
)
from .failures import failure_raw, program_lines, report_of
from .fold_scope import FoldScope
from .forking import Copying
from .limits import Limits
from .links import Links
from .loop import DeterministicLoop, DeterministicTimer
from .mailbox import Mailbox
from .operations import Env, Output, Step, source_line
from .patches import Moved
from .publication import Publication
from .relations import Relations
from .requests import Requests
from .restart import RestartBody

LONG_HISTORY = 10_000
"""Inputs of one incarnation after which it announces `long-history`: it should `continue_as_new`."""


class Process(FoldScope):
    """One process in memory.

    Attributes:
        id: its id.
        pid: the id that its program sees: while a copied history is applied, that of the process it was recorded for.
        copying: what is left of a copied history (`forking`).
        relations: what it has asked of others.
        applied: sequence of the last input applied.
        clock: seconds since 1970; max(its last time, the input's recorded time, the timer's due time).
        steps: running steps by operation number.
        timers: set timers by operation number.
        outputs: what the last turns sent, for the host to take.
        ended: its final event is out.
        replaying: the turn repeats what was done before.
    """

    def __init__(self, env: Env, pid: str, *, trace: bool = False) -> None:
        self.env = env
        self.pid = self.id = pid
        self.copying: Copying | None = None
        self.applied = 0
        self.inputs = 0
        self.inputs_since_start = 0
        self.seed = pid
        self.moved: Moved = []
        self.replaying = False
        self.gone = False
        self.build = ""
        self.ended = False
        self.outputs: list[Output] = []
        self.steps: dict[int, Step] = {}
        self.timers: dict[int, DeterministicTimer] = {}
        self.new_local: list[int] = []
        self.dropped_local: list[int] = []
        self.trace: dict[int, tuple[Op, str]] | None = {} if trace else None
        self.clock = 0.0
        self._recorded = 0.0
        self._restarting = False
        self._ended_at = 0
        self.started_at = self.began_at = 0.0
        self.start: m.Start | None = None
        self.incarnation = -1
        self._waiting_for_start: list[tuple[m.Message, int]] = []
        self._spent: set[int] = set()
        self._requests = Requests()
        self._reset()

    def _reset(self) -> None:
        """The state of an incarnation that begins."""
        self.loop = DeterministicLoop(self)
        self.type: ProcessType[Any, Any] | None = None
        self.restart: RestartBody | None = None
        self.n = 0
        self._rolling = array("Q", [0])
        self._random: random.Random | None = None
        self.events: list[m.EventRecord] = []
        self._events_before = 0
        self._watchers: dict[Ref, None] = {}
        self.tags: dict[str, str] = {}
        self.relations = Relations(self)
        self.endpoints = endpoints.Endpoints(self)
        self.mailbox = Mailbox(self)
        self.limits = Limits(self)
        self.links = Links(self)
        self.admission = Admission(self)
        self.publication = Publication(self)
        self.belongings = Belongings()
        self._outcome: tuple[m.Status, Raw, Failure | None] | None = None
        self._waiting: dict[asyncio.Future[Any], None] = {}
        self._main: asyncio.Task[None] | None = None
        self._main_ended = False
        self.closing = False
        self.endings = Endings(self)
        self.dropped_local.extend([*self.steps, *self.timers])
        self.steps.clear()
        self.timers.clear()

    def __repr__(self) -> str:
        return f"process {self.pid} ({self.start.type if self.start else 'not started'})"

    # Inputs -----------------------------------------------------------------------------------------------------------

    def apply(self, message: m.Input, seq: int, time: float) -> None:
        """Apply the input with sequence `seq` that was recorded at `time`, and run until nothing is ready.

        Raises:
            NondeterminismError: the input answers an operation that this fold has not made.
        """
        self.applied = seq
        self.inputs += 1
        self.inputs_since_start += 1
        self.clock = max(self.clock, message.at if message.at is not None else time, message.clock or 0.0)
        self._recorded = message.at if message.at is not None else time
        self.relations.new_input()
        self.limits.input(message)
        if self.inputs_since_start == LONG_HISTORY and self.start is not None and self.start.fold and not self.ended:
            self.announce("long-history", to_raw({"inputs": LONG_HISTORY}))
        self._take(message, seq)
        self._turn()
        if self.inputs_since_start == 1 and self.restart is None and type(message) is m.Start:
            self.publication.first_turn_over()
        if self.copying is not None:
            self.copying.after_turn(self)

    def _take(self, message: m.Message, seq: int) -> None:
        if isinstance(message, m.Start):
            self._on_start(message)
        elif self.endings.down and isinstance(message, _TAKEN_WHEN_DOWN):
            _HANDLERS[type(message)](self, message)
        elif self.start is None or (self.ended and self._restarting):
            self._waiting_for_start.append((message, seq))
        elif not isinstance(message, m.Request):
            _HANDLERS[type(message)](self, message)
        elif self.endings.lost_at:
            self._waiting_for_start.append((message, seq))  # the next incarnation's
        elif message.k:
            self._handle(self._requests.due(message, seq))
        else:
            self._handle([(message, seq)])

    def _handle(self, requests: list[tuple[m.Request, int]]) -> None:
        for message, seq in requests:
            if isinstance(message, m.Call):
                self.endpoints.called(message, seq)
            elif isinstance(message, m.ToolCall):
                self.endpoints.tool_called(message, seq)
            elif isinstance(message, m.Signal):
                self.mailbox.put(message, seq)
            else:
                _HANDLERS[type(message)](self, message)

    def _turn(self) -> None:
        self._drain()
        if not self._main_ended or self.ended:
            return
        if not self.closing:
            self.closing = True
            self._cancel_tasks()
            self._drain()
            self._close_endpoints()
        while not self.loop.tasks and self.loop.close_generators():
            self._drain()
        self.relations.cancel_children("its parent has ended", grouped=not self.loop.tasks)
        if not self.loop.tasks and not self.relations.open and not self._kept_back():
            self.endings.finish()

    def _kept_back(self) -> bool:
        """A failed process waits for the snapshots of its machines."""
        failed = self._outcome is not None and self._outcome[0] == "failed" and not self.endings.lost_at
        return failed and self.relations.keepsakes.pending()

    def _cancel_tasks(self) -> None:
        for task in self.loop.tasks:
            task.cancel()

    def _drain(self) -> None:
        while True:
            try:
                self.loop.drain()
            except (SystemExit, KeyboardInterrupt) as error:
                self.decide("failed", NULL, failure_of(error))
                self._main_ended = True
                continue
            return

    # Beginning and end ------------------------------------------------------------------------------------------------

    def _on_start(self, start: m.Start) -> None:
        if start.incarnation <= self.incarnation:
            return
        if self.start is not None:
            self._close_loop()
            self._reset()
        self.start = start
        self.incarnation = start.incarnation
        self.inputs_since_start = 1
        self.copying = Copying(self, start.forks) if start.forks else None
        self.seed = f"{self.pid}.{start.incarnation}"
        self.loop.seed(self.seed)
        self.build = start.build
        self.ended = False
        self._restarting = False
        self.started_at = self.began_at = self.clock
        self._requests.next_incarnation(start.carry.marks if start.carry is not None else {})
        if start.carry is not None:
            self._events_before = start.carry.events
            self.started_at = start.carry.started
            self._watchers = dict.fromkeys(start.carry.watchers)
        elif start.watch and start.parent is not None:
            self._watchers[start.parent] = None
        self._begin(start)
        held, self._waiting_for_start = self._waiting_for_start, []
        if held:
            self._drain()
            if self._main_ended:
                self._close_endpoints()
        carry = start.carry if start.carry is not None else m.Carry()
        lost, unanswered, spent = carry.lost, set(carry.open), self._spent.union(carry.spent)
        self._spent = set()
        for message, seq in held:
            if seq in spent and isinstance(message, m.Request):
                message = m.Request(by=message.by, k=message.k)
            if seq > max(lost, start.since):
                self._take(message, seq)
            elif seq in unanswered and isinstance(message, m.Request):
                self._handle(self._requests.again(message, seq))

    def _begin(self, start: m.Start) -> None:
        kind = "restarted" if start.incarnation else "started"
        type_ = nested.find(self.env.types, start.type)
        data = NULL
        if (carry := start.carry) is not None:
            self.tags = dict(carry.tags)
            if carry.continued:
                data = to_raw({"continued": True})
            elif carry.failure is not None:
                data = failure_raw(carry.failure, start.args)
        elif start.fold:
            self.tags = {**(type_.options.tags if type_ is not None else {}), **start.tags}
        self.announce(kind, data, meta=self.meta())
        if type_ is None:
            known = ", ".join(sorted(self.env.types)) or "none"
            failure = Failure(
                "ProgramError", f"unknown process type {start.type!r}; known: {known}", "unknown-type", False
            )
            self.decide("failed", NULL, failure)
            self._main_ended = True
            return
        self.type = type_
        self.limits.begin(type_.options)
        if type_.options.limits:
            self.admission.ask(type_.options.limits, partial(self._admitted, type_, start))
        else:
            self._begin_body(type_, start)

    def _admitted(self, type_: ProcessType[Any, Any], start: m.Start) -> None:
        self.limits.body_begins()
        self._begin_body(type_, start)

    def _begin_body(self, type_: ProcessType[Any, Any], start: m.Start) -> None:
        if type_.options.resume == "restart":
            self.restart = RestartBody(self)
        else:
            self._main = self.loop.create_task(self._run(type_, start.args), context=contextvars.Context())

    async def _run(self, type_: ProcessType[Any, Any], raw: Raw) -> None:
        try:
            args, kwargs = type_.signature.decode(raw)
            result = await type_.function(*args, **kwargs)
            value = to_raw(result, f"The result of {type_.name}()")
        except asyncio.CancelledError:
            self.decide("cancelled", NULL, Failure("CancelledError", "cancelled", "cancelled"))
        except ContinueAsNew as again:
            self.continued(again.args_raw)
        except BaseException as error:
            if self.gone:
                raise
            home = str(Path(type_.function.__code__.co_filename).parent)
            self.decide("failed", NULL, failure_of(error), program_lines(error, home))
        else:
            self.decide("done", value, None)
        finally:
            self._main_ended = True

    def continued(self, args: Raw) -> None:
        """The body goes on as a new incarnation, unless the outcome is decided already."""
        if self._outcome is None:
            self.operation("continue", self.start.type if self.start is not None else "", args)
            self.decide("done", NULL, None)
            self.endings.continue_with(args)
        self._main_ended = True

    def body_ended(self, status: m.Status, value: Raw, failure: Failure | None) -> None:
        """The `restart` body has ended."""
        self.decide(status, value, failure)
        self._main_ended = True

    def give_up(self, failure: Failure, reason: str) -> None:
        """Fail, whatever the body does."""
        self.decide("failed", NULL, failure)
        self._stop_body(reason)

    def _stop_body(self, reason: str) -> None:
        self.relations.cancel_children(reason, grouped=False)
        if self._main is not None:
            self._main.cancel()
        elif self.restart is not None:
            self.restart.cancel()
        else:
            self._main_ended = True  # it waits for a permit

    def decide(self, status: m.Status, value: Raw, failure: Failure | None, lines: Sequence[str] = ()) -> None:
        """Fix the outcome; the first decision counts. `lines`: of the program, that led to it."""
        if self._outcome is not None:
            return
        if status == "failed" and failure is not None and self.start is not None and self.start.fold:
            failure = msgspec.structs.replace(failure, report=report_of(self, list(lines)))
        self._outcome = (status, value, failure)
        for future in list(self._waiting):
            self._settle_wait(future)

    def _settle_wait(self, future: asyncio.Future[Any]) -> None:
        if future.done() or self._outcome is None:
            return
        status, value, failure = self._outcome
        if status != "done":
            assert failure is not None
            future.set_exception(execution_failed(failure, self.pid))
            future.exception()  # the body may be cancelled before it hears of it
            return
        assert self.type is not None
        try:
            future.set_result(from_raw(value, self.type.signature.result))
        except Exception as error:  # noqa: BLE001 - `__post_init__` of the program's classes may raise anything
            what = f"The result given to done() does not fit the annotation of {self.type.name}()"
            future.set_exception(InvalidArguments(f"{what}: {failure_of(error).message}"))

    def _close_endpoints(self) -> None:
        self.endpoints.close(self.endings.closing_error(), waiting_too=not self.endings.comes_again)

    @property
    def spent(self) -> list[int]:
        """Inputs of which only the number counts in the next incarnation."""
        early = [seq for message, seq in self._requests.early if type(message) is m.Request]
        return sorted([*self._spent, *early])

    def take_unanswered(self) -> list[tuple[m.Request, int]]:
        """Requests of this incarnation, with their inputs, that the next one has to answer."""
        held = [*self.endpoints.waiting, *self._requests.early, *self.mailbox.unread]
        unanswered = sorted(held, key=lambda each: each[1])
        self._waiting_for_start[:0] = unanswered
        return unanswered

    def leave_loop(self, *, waiting: bool = False) -> None:
        """The incarnation has ended; `waiting`: what comes in from now on waits for the next one."""
        self._restarting = waiting
        self.ended = True
        self._ended_at = self.applied
        self._drop_local()
        self._close_loop()

    def _let_go(self) -> None:
        """It was down, and ends for good: whoever waits hears of it."""
        self.endings.let_go()
        self._close_endpoints()
        held, self._waiting_for_start = self._waiting_for_start, []
        for message, seq in held:
            self._take(message, seq)

    def _drop_local(self) -> None:
        """Wait for nothing any more."""
        self.relations.drop()
        self.dropped_local.extend([*self.steps, *self.timers])
        self.steps.clear()
        self.timers.clear()

    def meta(self) -> m.ProcessMeta:
        """What lists show of it."""
        start = self.start
        assert start is not None
        return m.ProcessMeta(
            type=start.type,
            build=self.build,
            parent=start.parent.pid if start.parent and not start.forks else None,
            root="" if start.forks else start.root,
            name=self.public_name,
            program=start.program,
            started=self.started_at,
            tags=self.tags,
        )

    @property
    def public_name(self) -> str:
        """Under which others find it: its own name, or that of a public type; empty for none."""
        start = self.start
        assert start is not None
        type_ = self.type or nested.find(self.env.types, start.type)
        return start.name or (type_.name if type_ is not None and type_.options.public else "")

    @property
    def events_announced(self) -> int:
        """How many events it has announced in all incarnations."""
        return self._events_before + len(self.events)

    @property
    def watchers(self) -> list[Ref]:
        """Operations that its events are forwarded to."""
        return list(self._watchers)

    @property
    def marks(self) -> dict[str, int]:
        """By sender, the last request taken."""
        return dict(self._requests.marks)

    @property
    def status(self) -> str:
        """`waiting` for its start, `running`, or how it ended."""
        if self.start is None:
            return "waiting"
        return self._outcome[0] if self.ended and self._outcome and not self._restarting else "running"

    @property
    def result_raw(self) -> tuple[m.Status, Raw, Failure | None] | None:
        """The outcome, once decided."""
        return self._outcome

    @property
    def quiescent(self) -> bool:
        """Nothing is under way that the stream does not hold: no step, no `restart` body."""
        running = self.restart is not None and self.restart.running and not self.ended
        return not self.steps and self.loop.idle and not running

    def leave(self) -> None:
        """Leave memory; afterwards nothing refers to what refers to it, so no garbage collection is needed."""
        if self.gone:
            return
        self._close_loop()
        self.gone = True
        self.loop.forget()
        self.endpoints.forget()
        self.publication.forget()
        self.relations.forget()
        self.endings.forget()
        self.mailbox.forget()
        self.limits.forget()
        self.links.forget()
        self.admission.forget()
        self.belongings.clear()
        if self.restart is not None:
            self.restart.forget()
        self._main = None
        self._waiting.clear()

    def _close_loop(self) -> None:
        """End what the body left behind, under a marker that refuses every operation."""
        self.gone, gone = True, self.gone
        self.loop.close()
        self.gone = gone

    # Operations and outputs -------------------------------------------------------------------------------------------

    def operation(self, kind: str, name: str, args: bytes | Raw = b"") -> Op:
        """Number the next operation of the body and digest it into all before."""
        if self.gone:
            raise ProcessGone
        digest = blake2b(args, digest_size=8).hexdigest() if args else ""
        text = f"{self._rolling[-1]:x} {kind} {name} {digest}"
        rolling = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
        self.n += 1
        self._rolling.append(rolling)
        op = Op(self.n, kind, name, digest, f"{rolling:016x}")
        if self.trace is not None:
            self.trace[self.n] = (op, source_line(sys._getframe(1)))
        return op

    def number(self) -> int:
        """The number of an output that is no operation of the body."""
        self.n += 1
        self._rolling.append(self._rolling[-1])
        return self.n

    def send(self, pid: str, message: m.Message, n: int = 0) -> None:
        """Into the inbox of a process."""
        self.outputs.append(Output("inbox", pid, message, n or self.number()))

    def announce(
        self, type_: str, data: Raw, *, source: str | None = None, meta: m.ProcessMeta | None = None,
        final: bool = False, n: int = 0,
    ) -> None:  # fmt: skip
        """Publish an event and forward it to those who watch."""
        record = m.EventRecord(
            pid=self.id,
            incarnation=self.incarnation,
            n=n or self.number(),
            seq=self.events_announced + 1,
            type=type_,
            time=self.clock,
            data=data,
            source=source,
            final=final,
            meta=meta,
        )
        self.events.append(record)
        self.outputs.append(Output("event", self.id, record, record.n))
        for watcher in self._watchers:
            self._forward(watcher, record)

    def _forward(self, watcher: Ref, record: m.EventRecord) -> None:
        self.send(watcher.pid, m.Event(incarnation=watcher.incarnation, n=watcher.n, event=record))

    def take_outputs(self) -> list[Output]:
        """What was sent since the last call."""
        outputs, self.outputs = self.outputs, []
        return outputs

    @property
    def lead(self) -> float | None:
        """The clock, where it is ahead of the input's time: who hears from this process must not be behind it."""
        return self.clock if self.clock > self._recorded else None

    # Echoes -----------------------------------------------------------------------------------------------------------

    def _fits(self, incarnation: int, op: Op, what: str) -> bool:
        if incarnation != self.incarnation:
            return False
        if op.n <= self.n and f"{self._rolling[op.n]:016x}" == op.rolling:
            return True
        raise Diverged(op, self.trace, self.applied, what, self.n)

    def _on_result(self, message: m.Result) -> None:
        if not self._fits(message.incarnation, message.op, f"{message.op.kind} result"):
            return
        n = message.op.n
        if (step := self.steps.pop(n, None)) is not None:
            self.dropped_local.append(n)
            step.pending.settle(message.value, message.error)
        else:
            self.relations.answered(message)

    def _on_chunk(self, message: m.Chunk) -> None:
        if self._fits(message.incarnation, message.op, "piece of an answer"):
            self.relations.commands.chunk(message)

    def _on_timer(self, message: m.Timer) -> None:
        if not self._fits(message.incarnation, message.op, "timer"):
            return
        self.clock = max(self.clock, message.due)
        timer = self.timers.pop(message.op.n, None)
        if timer is not None:
            self.dropped_local.append(message.op.n)
            self.loop.fire(timer)

    def _on_child(self, message: m.Child) -> None:
        if not self._fits(message.incarnation, message.op, "child's end"):
            return
        self.relations.child_ended(message)

    def _on_event(self, message: m.Event) -> None:
        if message.incarnation == self.incarnation:
            self.relations.event(message)

    def _on_watch(self, message: m.Watch) -> None:
        watcher = message.by
        if watcher is None or watcher in self._watchers:
            return
        self._watchers[watcher] = None
        for record in self.events:
            if record.seq > message.after:
                self._forward(watcher, record)

    def _on_cancel(self, message: m.Cancel) -> None:
        if self.endings.down:
            self._waiting_for_start.append((message, self.applied))  # its number counts among its sender's
            if message.hold:
                self._spent.add(self.applied)
            else:
                self._let_go()
            return
        if self.ended:
            return
        self.endings.cancelled(message)
        self.decide("cancelled", NULL, Failure("CancelledError", message.reason or "cancelled", "cancelled"))
        self._stop_body(message.reason or "its parent was cancelled")
        if message.kill:
            self._main_ended = True
            if self.restart is not None:
                self.restart.running = False
            self._close_loop()
        elif self.closing:
            self._cancel_tasks()

    def _on_number(self, message: m.Request) -> None:
        """Only its number counts (`Carry.spent`)."""

    def _on_again(self, message: m.Again) -> None:
        self.endings.again(message, self._ended_at)

    def _on_link(self, message: m.Link) -> None:
        self.links.asked(message)

    def _on_exit(self, message: m.Exit) -> None:
        self.links.exited(message)

    def _on_upgrade(self, message: m.Upgrade) -> None:
        self.build = message.build

    def _on_resume(self, message: m.Resume) -> None:
        """Hosts read it."""

    def _on_host_lost(self, message: m.HostLost) -> None:
        if message.incarnation == self.incarnation and self.restart is not None and not self.ended:
            self.restart.host_lost(message)
            if self.restart.wants_restart:
                self.endings.lost_at = self.applied

    def _on_act(self, message: m.Act) -> None:
        if message.incarnation == self.incarnation and self.restart is not None and not self.ended:
            self.restart.act(message)

    # For the body and its loop ----------------------------------------------------------------------------------------

    def timer_set(self, handle: DeterministicTimer) -> None:
        op = self.operation("timer", "", repr(handle.when()).encode())
        handle.n = op.n
        handle.op = op
        handle.seq = self.applied
        self.timers[op.n] = handle
        self.new_local.append(op.n)

    def timer_cancelled(self, handle: DeterministicTimer) -> None:
        if self.timers.pop(handle.n, None) is not None:
            self.dropped_local.append(handle.n)

    def background(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside the body; it is cancelled with the body's other tasks."""
        return self.loop.create_task(coro, context=contextvars.Context())

    def cut_off(self) -> None:
        """A copied history ends here: forget who knew the process that it was recorded for (`forking`)."""
        assert self.start is not None
        self.start = msgspec.structs.replace(
            self.start, parent=None, op=None, root="", watch=False, by=None, restart=""
        )
        self.seed = f"{self.pid}.{self.incarnation}"
        self._random = None
        self._watchers.clear()
        self._requests.clear()
        self._waiting_for_start.clear()
        self.endpoints.disown()
        self.publication.cut_off()
        self.relations.cut_off()
        self.belongings.machines.clear()
        for n, timer in self.timers.items():
            timer.seq = self.applied
            self.new_local.append(n)

    def emit_raw(self, type_: str, raw: Raw, source: str | None = None) -> None:
        op = self.operation("emit", type_, raw)
        self.announce(type_, raw, source=source, n=op.n)

    async def wait(self) -> Any:
        future = self.loop.create_future()
        self._waiting[future] = None
        self._settle_wait(future)
        try:
            return await future
        finally:
            self._waiting.pop(future, None)

    @property
    def random(self) -> random.Random:
        """The process's own generator."""
        if self._random is None:
            self._random = random.Random(self.seed)  # noqa: S311 - must be repeatable
        return self._random


_HANDLERS: dict[type, Callable[[Any, Any], None]] = {
    m.Watch: Process._on_watch,
    m.Request: Process._on_number,
    m.Cancel: Process._on_cancel,
    m.Again: Process._on_again,
    m.Link: Process._on_link,
    m.Exit: Process._on_exit,
    m.Upgrade: Process._on_upgrade,
    m.Resume: Process._on_resume,
    m.HostLost: Process._on_host_lost,
    m.Result: Process._on_result,
    m.Child: Process._on_child,
    m.Event: Process._on_event,
    m.Timer: Process._on_timer,
    m.Act: Process._on_act,
    m.Chunk: Process._on_chunk,
}

_TAKEN_WHEN_DOWN = (m.Again, m.Cancel, m.Upgrade)
