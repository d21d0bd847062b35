"""Fold a recorded history here, without a host: `regrow replay`, `regrow status`, and tests of recorded histories.

Nothing is sent and nothing runs but the body. A body that iterates over sets of strings replays only under the hosts'
`PYTHONHASHSEED`; `fold_main` is a program of its own that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct
from regrow_protocol import messages as m

from . import nested
from .definition import ProcessType
from .errors import ProgramError
from .operations import Env
from .patches import moved_in
from .process import Diverged, Process


class Recorded(Struct, frozen=True):
    """An input as it stands in the inbox.

    Attributes:
        seq: its sequence in the app's stream.
        time: when it was stored, seconds since 1970.
        message: its JSON.
    """

    seq: int
    time: float
    message: Raw


class Sent(Struct, frozen=True):
    """A message that the fold sends.

    Attributes:
        id: `<pid>.<incarnation>.<n>`, which it is published under.
        to: `inbox` of process `target`, an `event` of the process itself, a `reply` or a `command` on subject `target`.
        seq: of the input whose turn it belongs to.
        message: its JSON.
    """

    id: str
    to: Literal["inbox", "event", "reply", "command", "agent"]
    target: str
    seq: int
    message: Raw


class Waiting(Struct, frozen=True, omit_defaults=True):
    """An operation whose outcome has not come.

    Attributes:
        n: its number.
        kind: `step`, `call`, `spawn`, `timer` or `watch`.
        name: of the step, endpoint or process type; empty for timers.
        pid: of the process that is called, awaited or watched.
        due: of a timer, seconds since 1970.
        line: of the program, `survey.py:41`.
    """

    n: int
    kind: str
    name: str = ""
    pid: str = ""
    due: float = 0.0
    line: str = ""


class State(Struct, omit_defaults=True):
    """How a process stands after its last input.

    Attributes:
        status: `running`, or how it ended.
        clock: its own time, seconds since 1970.
        operations: how many its body has made in this incarnation.
        endpoints: names that it exposes.
        waiting: operations under way.
    """

    status: str
    clock: float
    operations: int
    endpoints: list[str] = []
    waiting: list[Waiting] = []


class Folding(Struct, omit_defaults=True):
    """What a fold came to.

    Attributes:
        state: after the last input.
        inputs: how many were applied.
        sent: all that it sends.
        diverged: recorded against attempted, where it is not the fold that was recorded.
        hint: what to do about that.
        at: the input at which it diverged.
        operation: the recorded operation that it differs from, its number.
    """

    state: State
    inputs: int
    sent: list[Sent] = []
    diverged: str = ""
    hint: str = ""
    at: int = 0
    operation: int = 0


MakeProcess = Callable[[Env, str], Process]


def _traced(env: Env, pid: str) -> Process:
    return Process(env, pid, trace=True)


def fold(
    pid: str,
    inputs: Sequence[Recorded],
    types: Mapping[str, ProcessType[Any, Any]],
    *,
    app: str = "",
    partitions: int = 16,
    until: int | None = None,
    make: MakeProcess = _traced,
    before_turn: Callable[[int], None] | None = None,
) -> Folding:
    """Fold inputs up to sequence `until`; call it outside any task.

    Args:
        pid: of the process.
        inputs: its inbox.
        types: process types by name.
        app, partitions: of the process.
        until: the last input to apply; None for all.
        make: makes the process.
        before_turn: called with the sequence of each input before it is applied.

    Raises:
        ProgramError: there is no process type of that name.
    """
    env = Env(app, "", partitions, types)
    process = make(env, pid)
    process.replaying = True
    process.moved = moved_in((_decoded(recorded), recorded.seq) for recorded in inputs)
    folding = Folding(_state(process), 0)
    try:
        for recorded in inputs:
            if until is not None and recorded.seq > until:
                break
            try:
                message = m.decode_input(recorded.message)
            except msgspec.MsgspecError:
                continue  # hosts put it aside
            if isinstance(message, m.Start) and nested.find(types, message.type) is None:
                known = ", ".join(sorted(types)) or "none"
                raise ProgramError(f"The program has no process {message.type!r}", hint=f"it has: {known}")
            if before_turn is not None:
                before_turn(recorded.seq)
            process.apply(message, recorded.seq, recorded.time)
            folding.inputs += 1
            folding.sent += _sent(process, recorded.seq)
            process.new_local.clear()
            process.dropped_local.clear()
            if process.restart is not None:
                process.restart.deliveries.clear()
    except Diverged as diverged:
        error = diverged.explain(pid)
        folding.diverged, folding.hint = error.message, error.hint
        folding.at, folding.operation = diverged.seq, diverged.recorded.n
    finally:
        folding.state = _state(process)
        process.leave()
    return folding


def _decoded(recorded: Recorded) -> m.Input | None:
    try:
        return m.decode_input(recorded.message)
    except msgspec.MsgspecError:
        return None  # hosts put it aside


def _sent(process: Process, seq: int) -> Iterator[Sent]:
    lead = process.lead
    for output in process.take_outputs():
        message = output.message
        if lead is not None and isinstance(message, m.Message) and message.clock is None:
            message = msgspec.structs.replace(message, clock=lead)
        id_ = f"{process.id}.{process.incarnation}.{output.n}"
        yield Sent(id_, output.to, output.target, seq, Raw(m.encode(message)))


def _state(process: Process) -> State:
    due = {n: timer.when() for n, timer in process.timers.items()}
    children = {child.op.n: child.pid for child in process.relations.children.values() if not child.ended}
    waiting: list[Waiting] = []
    for n in sorted({*process.steps, *process.relations.calls, *due, *children}):
        op, line = (process.trace or {}).get(n, (None, ""))
        if op is not None:
            waiting.append(Waiting(n, op.kind, op.name, children.get(n, ""), due.get(n, 0.0), line))
    waiting += [Waiting(0, "signal", name) for name in process.mailbox.awaited]
    return State(process.status, process.clock, process.n, process.endpoints.names, waiting)
