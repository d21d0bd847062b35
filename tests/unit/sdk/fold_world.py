"""Processes without a server: the real fold, with a queue of messages in the place of streams.

Messages are delivered in the order they were sent, a millisecond apart; steps run at once, and timers fire, in their
order, when nothing else is left to do. Everything is written down, so a process can be folded again from its history
and must then send the same, byte for byte.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from msgspec import UNSET, Raw
from regrow import ProcessType
from regrow.codec import from_raw, to_raw
from regrow.definition import REGISTRY
from regrow.errors import CallFailed, execution_failed, failure_of, raised
from regrow.handle import Event
from regrow.operations import Env, Output
from regrow.process import Process
from regrow_protocol import ids
from regrow_protocol import messages as m
from regrow_protocol.agents import Entry
from regrow_protocol.messages import Failure

BEGIN = 1_700_000_000.0

made: list[World] = []
"""Worlds that no test has left yet."""


@dataclass
class Turn:
    """An input of a process, and what the process sent in that turn."""

    seq: int
    time: float
    message: bytes
    sent: list[tuple[str, str, int, bytes]] = field(default_factory=list)

    def take(self, outputs: list[Output]) -> None:
        self.sent += [(o.to, o.target, o.n, m.encode(o.message)) for o in outputs]


class World:
    """All processes, their inboxes and the time.

    Attributes:
        processes: in memory, by pid.
        histories: what each process was given and sent, by pid.
        replies: of clients' calls, by their subject.
        commands: to services, with their subjects; tests answer them.
        entries: that processes added to conversations of agents, by their subject.
        clock: time of the last message, seconds since 1970.
        hold: a step for which it is true is not run; a test answers it by `answer`.
    """

    def __init__(self, module: str) -> None:
        types = {t.name: t for defined in REGISTRY.values() for t in defined if t.function.__module__ == module}
        self.env = Env("app", "build", 16, types)
        self.processes: dict[str, Process] = {}
        self.histories: dict[str, list[Turn]] = {}
        self.replies: dict[str, list[m.Reply]] = {}
        self.commands: list[tuple[str, m.Command]] = []
        self.entries: dict[str, list[Entry]] = {}
        self.clock = BEGIN
        self.hold: Callable[[str], bool] = lambda _name: False
        self.steps_run = 0
        self._queue: deque[tuple[str, m.Input]] = deque()
        self._timers: list[tuple[float, int, str, m.Timer]] = []
        self._seq = 0
        self._calls = 0
        self._set = 0
        made.append(self)

    def leave(self) -> None:
        """All processes leave memory."""
        for process in self.processes.values():
            process.leave()

    # What clients do --------------------------------------------------------------------------------------------------

    def start(self, type_: ProcessType[..., Any], *args: Any, **kwargs: Any) -> str:
        """Start a root; returns its pid."""
        pid = ids.derived_id("p", f"root {len(self.histories)} {len(self._queue)}", self.clock)
        self.send(
            pid, m.Start(type=type_.name, args=type_.signature.encode(args, kwargs), build=self.env.build, fold=m.FOLD)
        )
        return pid

    def run(self, type_: ProcessType[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a root to its end; its result, or ExecutionFailed. Checks that all processes replay."""
        pid = self.start(type_, *args, **kwargs)
        self.settle()
        self.check()
        return self.result(pid)

    def call(
        self,
        pid: str,
        endpoint: str,
        *,
        wait: bool = False,
        again: bool = False,
        client: str = "c_1",
        k: int = 0,
        **kwargs: Any,
    ) -> str:
        """Call an endpoint; the subject that `replies` has the answer under."""
        self._calls += 1
        reply = f"regrow.reply.{client}.{self._calls}"
        call = m.Call(endpoint=endpoint, args=to_raw(kwargs), client=client, k=k or self._calls, reply=reply, wait=wait,
                      again=again)  # fmt: skip
        self.send(pid, call)
        return reply

    def answer_of(self, reply: str) -> Any:
        """What a call was answered, once; raises what it failed with."""
        (answer,) = self.replies[reply]
        if answer.error is not None:
            raise raised(CallFailed, answer.error)
        assert isinstance(answer.value, Raw)
        return from_raw(answer.value)

    def ask(self, pid: str, endpoint: str, **kwargs: Any) -> Any:
        """Call an endpoint and return its answer."""
        reply = self.call(pid, endpoint, **kwargs)
        self.settle(timers=False)
        return self.answer_of(reply)

    def send(self, pid: str, message: m.Input) -> None:
        """Put a message into an inbox."""
        self._queue.append((pid, message))

    def cancel(self, pid: str, reason: str = "") -> None:
        self.send(pid, m.Cancel(reason=reason))

    # What the world does ----------------------------------------------------------------------------------------------

    def settle(self, *, timers: bool = True, until: float | None = None, most: int = 200_000) -> None:
        """Deliver until nothing is left; `timers` that are due up to `until` fire then."""
        while self.deliver(timers=timers, until=until):
            most -= 1
            assert most, "this does not end"

    def deliver(self, *, timers: bool = True, until: float | None = None) -> bool:
        """Deliver one message; false when there is none."""
        if not self._queue and not (timers and self._fire(until)):
            return False
        pid, message = self._queue.popleft()
        self._seq += 1
        self.clock += 0.001
        turn = Turn(self._seq, self.clock, m.encode(message))
        process = self.processes.get(pid)
        if process is None:
            process = self.processes[pid] = Process(self.env, pid)
        self.histories.setdefault(pid, []).append(turn)
        process.apply(m.decode_input(turn.message), turn.seq, turn.time)
        outputs = process.take_outputs()
        turn.take(outputs)
        for output in outputs:
            self._publish(output, process.lead)
        self._attend(process)
        return True

    def _publish(self, output: Output, lead: float | None) -> None:
        if output.to == "inbox":
            message = output.message
            assert isinstance(message, m.Message)
            del lead  # recorded times are this world's own: none is ahead of them
            self._queue.append((output.target, m.decode_input(m.encode(message))))
        elif output.to == "reply":
            self.replies.setdefault(output.target, []).append(m.decode(m.encode(output.message), m.Reply))
        elif output.to == "command":
            self.commands.append((output.target, m.decode(m.encode(output.message), m.Command)))
        elif output.to == "agent":
            self.entries.setdefault(output.target, []).append(m.decode(m.encode(output.message), Entry))

    def _attend(self, process: Process) -> None:
        for n in process.new_local:
            if (step := process.steps.get(n)) is not None:
                if not self.hold(step.pending.op.name):
                    self.answer(process.pid, n)
            elif (timer := process.timers.get(n)) is not None:
                assert timer.op is not None
                self._set += 1
                due = m.Timer(incarnation=process.incarnation, op=timer.op, due=timer.when())
                heapq.heappush(self._timers, (timer.when(), self._set, process.pid, due))
        process.new_local.clear()
        process.dropped_local.clear()

    def answer(self, pid: str, n: int) -> None:
        """Run step number `n` of a process and send its result."""
        process = self.processes[pid]
        step = process.steps[n]
        value: Any = UNSET
        failure: Failure | None = None
        self.steps_run += 1
        try:
            result = step.function(*step.args, **step.kwargs)
            value = to_raw(asyncio.run(result) if inspect.iscoroutine(result) else result)
        except Exception as error:  # noqa: BLE001 - a step may raise anything
            failure = failure_of(error)
        self.send(pid, m.Result(incarnation=process.incarnation, op=step.pending.op, value=value, error=failure))

    def _fire(self, until: float | None) -> bool:
        while self._timers:
            due, _, pid, timer = self._timers[0]
            if until is not None and due > until:
                return False
            heapq.heappop(self._timers)
            process = self.processes[pid]
            if process.incarnation == timer.incarnation and timer.op.n in process.timers:
                self.clock = max(self.clock, due)
                self._queue.append((pid, timer))
                return True
        return False

    # Crashes ----------------------------------------------------------------------------------------------------------

    def kill(self, pid: str, *, lost: int = 0) -> None:
        """Its host dies: the process is folded anew. What it sent in its last `lost` turns is sent again."""
        history = self.histories[pid]
        self.processes[pid].leave()
        process = self.processes[pid] = Process(self.env, pid)
        known = len(history) - lost
        for at, (_, outputs) in enumerate(self._folding(process, history)):
            if at >= known:
                for output in outputs:
                    if output.to != "event":
                        self._publish(output, process.lead)
            process.new_local.clear()
            process.dropped_local.clear()
        process.new_local = [*process.steps, *process.timers]
        self._attend(process)

    def refold(self, pid: str, turns: int | None = None) -> Process:
        """A second fold of a process's history, checked against the first."""
        process = Process(self.env, pid)
        for _ in self._folding(process, self.histories[pid][:turns]):
            process.new_local.clear()
            process.dropped_local.clear()
        return process

    def _folding(self, process: Process, history: list[Turn]) -> Iterator[tuple[Turn, list[Output]]]:
        process.replaying = True
        for turn in history:
            process.apply(m.decode_input(turn.message), turn.seq, turn.time)
            outputs = process.take_outputs()
            again = Turn(turn.seq, turn.time, turn.message)
            again.take(outputs)
            assert again.sent == turn.sent, f"{process} sends something else at input {turn.seq}"
            yield turn, outputs
        process.replaying = False

    def check(self) -> None:
        """Every process, folded again, sends the same and then waits for the same; from its last start on is enough."""
        for pid, process in self.processes.items():
            folds = [self.refold(pid)]
            if process.start is not None and process.start.incarnation and not process.ended:
                folds.append(self._fold_last(pid, process.start))
            for again in folds:
                assert set(again.steps) == set(process.steps)
                assert set(again.timers) == set(process.timers)
                assert (again.n, again.ended, again.clock) == (process.n, process.ended, process.clock)
                again.leave()

    def _fold_last(self, pid: str, start: m.Start) -> Process:
        """As a host does: from the first input that belongs to the last incarnation."""
        process = Process(self.env, pid)
        history = [turn for turn in self.histories[pid] if turn.seq > start.since]
        began = next(i for i, turn in enumerate(history) if m.decode_input(turn.message) == start)
        process.replaying = True
        for turn in history[:began]:
            process.apply(m.decode_input(turn.message), turn.seq, turn.time)
        for _ in self._folding(process, history[began:]):
            process.new_local.clear()
            process.dropped_local.clear()
        return process

    # What became of it ------------------------------------------------------------------------------------------------

    def result(self, pid: str) -> Any:
        """The result of a process that has ended, or ExecutionFailed."""
        process = self.processes[pid]
        assert process.ended, f"{process} has not ended"
        outcome = process.result_raw
        assert outcome is not None
        status, value, failure = outcome
        if status != "done":
            assert failure is not None
            raise execution_failed(failure, pid)
        assert process.type is not None
        return from_raw(value, process.type.signature.result)

    def events(self, pid: str) -> list[Event]:
        """What a process has announced."""
        return [Event.of(m.decode(data, m.EventRecord)) for to, _, _, data in self.sent(pid) if to == "event"]

    def types(self, pid: str) -> list[str]:
        """The types of these events."""
        return [event.type for event in self.events(pid)]

    def sent(self, pid: str) -> list[tuple[str, str, int, bytes]]:
        """All that a process has sent: (to, target, n, body)."""
        return [sent for turn in self.histories[pid] for sent in turn.sent]

    def inputs(self, pid: str) -> list[m.Input]:
        """All that a process was given."""
        return [m.decode_input(turn.message) for turn in self.histories[pid]]

    def of_type(self, name: str) -> list[Process]:
        """The processes of a type, oldest first."""
        return [p for p in self.processes.values() if p.start is not None and p.start.type == name]
