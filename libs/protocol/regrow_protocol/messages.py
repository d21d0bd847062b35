"""Every message body of Regrow: JSON of tagged `msgspec.Struct`s (the tag is `kind`).

A process is a deterministic fold over its inbox (docs/architecture.md). `Input` is the union of what an inbox carries.
JSON Schemas and the AsyncAPI document are generated from these types, so their docstrings are the wire protocol's
reference.

References:
    `Ref` names who asked: (pid, incarnation, n), n being the operation's number in that incarnation.
    `Op` is what an answer echoes of the operation it answers; a fold compares it with its own operation n and so sees a
    divergence at the first input that does not fit.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from .images import Image

MAX_INLINE = 256 * 1024
"""Bytes of a value that travel in a message; a larger one goes to the object store and a `Blob` in its place."""

MAX_VALUE = 64 * 1024 * 1024
"""Bytes that a value may have at all."""


FOLD = 1
"""Version of what a fold makes of its inputs. 0: failures had no report. A fold keeps to that of its `start`."""


class Ref(Struct, frozen=True, array_like=True, gc=False):
    """An operation of a process: the sender of a request, and where its answer goes."""

    pid: str
    incarnation: int
    n: int


class Op(Struct, frozen=True, array_like=True, gc=False):
    """An operation as its answer echoes it.

    Attributes:
        n: number of the operation within its incarnation, from 1.
        kind: `step`, `call`, `spawn`, `timer`, …
        name: of the step's function, the endpoint, the process type.
        digest: of the arguments' JSON (hex, 64 bits).
        rolling: digest of this operation and all before it (hex, 64 bits).
    """

    n: int
    kind: str
    name: str
    digest: str
    rolling: str


Status: TypeAlias = Literal["done", "failed", "cancelled"]

Restart: TypeAlias = Literal["", "permanent", "transient"]
"""When a process that has ended is started again: never (empty), always, or when it failed."""


class FailureReport(Struct, frozen=True, omit_defaults=True):
    """What a failed process leaves to whoever tries again.

    Attributes:
        type: of the process.
        args: its arguments; only in `failed` and `restarted` events, its parent knows them.
        incarnation: that failed.
        ran_for: seconds of its own clock.
        traceback: lines of the program as `survey.py:41 in main`, without paths: the same wherever it runs.
        pending: operations that were under way, as `step fetch`.
        children: pids of those that ran.
        agents, machines: ids of those that it had.
    """

    type: str
    args: Raw | UnsetType = UNSET
    incarnation: int = 0
    ran_for: float = 0.0
    traceback: list[str] = []
    pending: list[str] = []
    children: list[str] = []
    agents: list[str] = []
    machines: list[str] = []


class Failure(Struct, frozen=True, omit_defaults=True):
    """An error as data. Never a text that differs between machines: what is recorded must replay.

    Attributes:
        error: class name of the exception.
        message: its text; the class name where that is empty.
        code: the stable code of a RegrowError, or of what failed: `exception`, `timeout`, `cancelled`, `host-lost`, …
        retryable: false when whoever failed said that another try is of no use.
        snapshots: of a process, its machines' state when it failed: machine id → snapshot id.
        report: of a process, what was under way.
    """

    error: str
    message: str
    code: str = "exception"
    retryable: bool = True
    snapshots: dict[str, str] = {}
    report: FailureReport | None = None


class Program(Struct, frozen=True, omit_defaults=True):
    """Where a root's code is, so that `regrow resume` can start it again.

    Attributes:
        target: absolute path of a file, or `module:NAME`.
        cwd: working directory of the run.
    """

    target: str
    cwd: str = ""


class Message(Struct, frozen=True, omit_defaults=True, tag_field="kind", kw_only=True):
    """What every inbox message may carry.

    Attributes:
        at: recorded time that replaces the stream's (seconds since 1970): copied histories keep theirs.
        clock: the sender's process clock where it is ahead of real time: no chain of causes runs back in time.
    """

    at: float | None = None
    clock: float | None = None


class Request(Message, frozen=True, omit_defaults=True, kw_only=True):
    """An input that somebody sends on their own account.

    Attributes:
        by: the operation of the process that sent it; None for clients and services.
        k: number of this request among those of the sender's incarnation to this process, from 1: a repeat is dropped,
            one that came too early is held. 0: not numbered.
    """

    by: Ref | None = None
    k: int = 0


class Start(Request, frozen=True, tag="start", omit_defaults=True, kw_only=True):
    """Begin an incarnation. Dropped when that incarnation or a later one has begun.

    Attributes:
        type: name of the process type.
        args: JSON object of the arguments by parameter name, without defaults.
        incarnation: 0 at first.
        since: sequence of the input at which the last incarnation ended; its unanswered inputs belong to this one.
        build: of the code that shall run it.
        parent: the operation that spawned it; None for a root.
        root: pid of the tree's root; empty for a root.
        op: echo of the parent's operation.
        watch: the parent wants its events from the first.
        name: a unique name to be found by, or empty.
        program: for roots, where the code is.
        restarts: how many restarts are behind this incarnation.
        carry: what the last incarnation hands on.
        machine: image of its `machine()`, where its spawn gave one.
        restart: when its end is not its last word but its parent's to decide: `permanent`, always; `transient`, when it
            failed; empty, never. Such an end is a `child` with `down`, and then comes `again` or `cancel`. Of a root:
            the supervisor decides; empty leaves it to the type's option.
        tags: on top of those of its type.
        forks: for a history that begins as a copy, whose it was.
        fold: version of the fold (`FOLD`) that this tree began with, so that an old history replays as it was.
    """

    type: str
    args: Raw
    build: str
    incarnation: int = 0
    since: int = 0
    parent: Ref | None = None
    root: str = ""
    op: Op | None = None
    watch: bool = False
    name: str = ""
    program: Program | None = None
    restarts: int = 0
    carry: Carry | None = None
    machine: Image | None = None
    restart: Restart = ""
    tags: dict[str, str] = {}
    forks: list[Fork] = []
    fold: int = 0


class Fork(Struct, frozen=True):
    """The beginning of a history that is a copy: it is not done again, and what was pending at its end is `forked`.

    Attributes:
        pid: the process that these inputs were recorded for; up to there the fold goes by its id.
        inputs: how many, counted from the first; a copy of a copy lists both, the older and shorter one first.
    """

    pid: str
    inputs: int


class Carry(Struct, frozen=True, omit_defaults=True):
    """What an incarnation hands to the next.

    Attributes:
        events: how many events the process has announced so far.
        started: when its first incarnation began, seconds since 1970.
        watchers: operations that its events are forwarded to.
        marks: by sender (`pid.incarnation` or client id), the last request taken.
        lost: the input that ended the last incarnation.
        open: inputs up to it that are unanswered: calls that waited for their endpoint, requests that came too early.
        spent: inputs of which only the number counts: a `cancel` with `hold` that came when the process was down.
        failure: that it ended with.
        continued: it ended by `continue_as_new`.
        tags: that it had.
        ends: of a root that is started again by its own policy, how often it ended in a row.
    """

    events: int = 0
    started: float = 0.0
    watchers: list[Ref] = []
    marks: dict[str, int] = {}
    lost: int = 0
    open: list[int] = []
    spent: list[int] = []
    failure: Failure | None = None
    continued: bool = False
    tags: dict[str, str] = {}
    ends: int = 0


class Call(Request, frozen=True, tag="call", omit_defaults=True, kw_only=True):
    """Call an endpoint. The answer goes to the inbox of `by`, or to the subject `reply`.

    Attributes:
        endpoint: its name.
        args: JSON object of keyword arguments.
        op: echo of the caller's operation.
        reply: subject for a caller that is not a process.
        client: id of that caller; with `k` it recognises a repeat.
        wait: wait for the endpoint to be exposed instead of failing.
        again: it may be done twice: when the process is started again meanwhile, its next incarnation takes it up.
    """

    endpoint: str
    args: Raw
    op: Op | None = None
    reply: str = ""
    client: str = ""
    wait: bool = False
    again: bool = False


class ToolCall(Request, frozen=True, tag="tool", omit_defaults=True, kw_only=True):
    """An agent calls a tool that this process serves. It is taken once, however often the agent repeats it.

    Attributes:
        agent: its id.
        call: stands for the harness's session and its own id of the call (`agents.call_key`).
        endpoint: that serves the tool.
        args: JSON object of keyword arguments.
        reply: subject of the agent's conversation that the answer goes to.
    """

    agent: str
    call: str
    endpoint: str
    args: Raw
    reply: str


class Signal(Request, frozen=True, tag="signal", omit_defaults=True, kw_only=True):
    """A named message without an answer."""

    name: str
    data: Raw = Raw(b"null")
    client: str = ""


class Watch(Request, frozen=True, tag="watch", omit_defaults=True, kw_only=True):
    """From now on forward events to the inbox of `by`, those after number `after` first."""

    after: int = 0


class Cancel(Request, frozen=True, tag="cancel", omit_defaults=True, kw_only=True):
    """End as cancelled, children first. One that is down ends for good, as it went down.

    Attributes:
        hold: only go down, to be started again later.
        kill: do not wait for what the body does about it.
    """

    reason: str = ""
    hold: bool = False
    kill: bool = False


class Again(Message, frozen=True, tag="again", omit_defaults=True, kw_only=True):
    """Begin again as this incarnation, for a process that is down; it writes the `start` itself.

    From its parent, or for a root from the supervisor.
    """

    incarnation: int


class Link(Request, frozen=True, tag="link", omit_defaults=True, kw_only=True):
    """Tie the incarnation of `by` to this process: when one ends, the other gets `exit`. `off`: untie them."""

    off: bool = False


class Exit(Request, frozen=True, tag="exit", omit_defaults=True, kw_only=True):
    """The incarnation of `by`, which is linked to this process, has ended."""

    status: Status
    error: Failure | None = None


class Upgrade(Message, frozen=True, tag="upgrade", omit_defaults=True, kw_only=True):
    """Fold this process with another build from here on.

    Attributes:
        had: patches of the build that folded it so far (`BuildRecord`).
    """

    build: str
    had: list[str] = []


class Resume(Message, frozen=True, tag="resume", omit_defaults=True, kw_only=True):
    """Take a stuck process up again. No input of the fold: hosts read it."""


class HostLost(Message, frozen=True, tag="host_lost", omit_defaults=True, kw_only=True):
    """The host that ran the `restart` body of this incarnation is gone."""

    incarnation: int
    host: str = ""


class Result(Message, frozen=True, tag="result", omit_defaults=True, kw_only=True):
    """The outcome of operation `op` of `incarnation` of the receiving process: a step or a call. The first one counts.

    Attributes:
        value: the result's JSON; absent when there is an `error`.
        attempts: how often a step ran.
    """

    incarnation: int
    op: Op
    value: Raw | UnsetType = UNSET
    error: Failure | None = None
    attempts: int = 1


class Child(Message, frozen=True, tag="child", omit_defaults=True, kw_only=True):
    """A child, spawned by operation `op` of `incarnation`, has ended.

    Attributes:
        down: it waits for `again` or `cancel`.
        run: its own incarnation.
    """

    incarnation: int
    op: Op
    pid: str
    status: Status
    down: bool = False
    run: int = 0
    value: Raw | UnsetType = UNSET
    error: Failure | None = None


class EventRecord(Struct, frozen=True, omit_defaults=True):
    """An event of a process, as it stands in `REGROW_EVENTS` and is forwarded to watchers.

    Attributes:
        pid, incarnation, n: its id; readers drop repeats by it.
        seq: number of the event in the life of the process, from 1.
        type: `started`, `done`, `failed`, `cancelled`, `restarted`, or the program's own.
        data: its JSON.
        source: of a bubbled event, the name of where it came from.
        time: the process's clock, seconds since 1970.
        final: the process has ended with this event.
        meta: of `started` and final events: what lists show of the process.
    """

    pid: str
    incarnation: int
    n: int
    seq: int
    type: str
    time: float
    data: Raw = Raw(b"null")
    source: str | None = None
    final: bool = False
    meta: ProcessMeta | None = None


class ProcessMeta(Struct, frozen=True, omit_defaults=True):
    """What a list shows of a process."""

    type: str
    build: str
    parent: str | None = None
    root: str = ""
    name: str = ""
    program: Program | None = None
    started: float = 0.0
    tags: dict[str, str] = {}


class RootDown(Struct, frozen=True, omit_defaults=True):
    """The data of a root's `down`: it has ended, and the supervisor is to send `again`.

    Attributes:
        status: that it ended with.
        again_at: when, seconds since 1970.
        failure: of one that failed, as in `failed` events.
    """

    status: Status
    again_at: float
    failure: Raw | UnsetType = UNSET


class Event(Message, frozen=True, tag="event", omit_defaults=True, kw_only=True):
    """An event of a watched process, forwarded to its watcher (operation `n` of `incarnation` there)."""

    incarnation: int
    n: int
    event: EventRecord


class Timer(Message, frozen=True, tag="timer", omit_defaults=True, kw_only=True):
    """A timer (operation `op` of `incarnation`) has fired; `due` in seconds since 1970."""

    incarnation: int
    op: Op
    due: float


class Act(Message, frozen=True, tag="act", omit_defaults=True, kw_only=True):
    """An operation that a `restart` body asked for, numbered by it.

    A `restart` body is no function of the inbox, so what it does enters its own inbox first; its process stays a fold.

    Attributes:
        m: the body's number of the act, from 1.
        what: `spawn`, `call`, `emit`, `bubble`, `watch`, `expose`, `cancel`, `answer`, `end`, `step`, `sleep`, ….
        data: its arguments.
    """

    incarnation: int
    m: int
    what: str
    data: Raw = Raw(b"null")


class Chunk(Message, frozen=True, tag="chunk", omit_defaults=True, kw_only=True):
    """A piece of the answer to operation `op` of `incarnation`, before its `Result`.

    Attributes:
        channel: which of several outputs, as `stdout`.
        offset: of the piece in that output, in bytes: a repeat is dropped, and of an overlap what is known.
        data: base64 in JSON.
    """

    incarnation: int
    op: Op
    channel: str
    offset: int
    data: bytes


Input: TypeAlias = (
    Start
    | Call
    | ToolCall
    | Signal
    | Watch
    | Cancel
    | Again
    | Link
    | Exit
    | Upgrade
    | Resume
    | HostLost
    | Result
    | Child
    | Event
    | Timer
    | Act
    | Chunk
)


class Command(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A request to a service, on `regrow.command.<service>.…`.

    Attributes:
        id: `<pid>.<incarnation>.<n>`, or `<client>.<n>`; the same in every repeat.
        app: of the sender.
        name: what to do.
        args: its JSON; a `$blob` where it is large.
        reply: where the answer goes: an inbox of the app, or a client's reply subject; empty: nobody waits.
        by, op: of a process, its operation and the echo that the answer carries.
    """

    id: str
    app: str
    name: str
    args: Raw = Raw(b"{}")
    reply: str = ""
    by: Ref | None = None
    op: Op | None = None


class Reply(Struct, frozen=True, omit_defaults=True):
    """The answer to a client's call, on `regrow.reply.<client>.<n>`."""

    value: Raw | UnsetType = UNSET
    error: Failure | None = None


class DeadLetter(Struct, frozen=True, omit_defaults=True):
    """What could not be handled, on `regrow.dead.<service>.…`.

    Attributes:
        subject, stream, seq: where the original is or was.
        reason: why it could not be handled.
        body: the original, base64 in JSON.
        headers: of the original.
        attempts: how often it was tried.
        time: seconds since 1970.
    """

    subject: str
    reason: str
    body: bytes
    stream: str = ""
    seq: int = 0
    headers: dict[str, str] = {}
    attempts: int = 1
    time: float = 0.0


# Records in KV buckets ------------------------------------------------------------------------------------------------


class AppRecord(Struct, frozen=True, omit_defaults=True):
    """`regrow_partitions`, key `app.<app>`: fixed when the app is first seen."""

    partitions: int = 16


class BuildRecord(Struct, frozen=True, omit_defaults=True):
    """`regrow_partitions`, key `build.<app>.<build>`: created with the build's first host or start.

    Attributes:
        since: last sequence of the inbox stream at that moment: no input of this build is older.
        created: seconds since 1970.
        patches: ids of `patched(…)` in its code.
    """

    since: int
    created: float = 0.0
    patches: list[str] = []


class HostRecord(Struct, frozen=True, omit_defaults=True):
    """`regrow_hosts`, key `<app>.<host>`, with a TTL that its host renews.

    Attributes:
        version: of the app, as its host was told.
        upgrade: `auto`: processes of older builds move to this one at once; `wait`: when theirs has no host any more.
    """

    host: str
    app: str
    build: str
    types: list[str]
    node: str = ""
    os_pid: int = 0
    started: float = 0.0
    target: str = ""
    draining: bool = False
    load: int = 0
    version: str = ""
    upgrade: Literal["wait", "auto"] = "wait"


class Ownership(Struct, frozen=True, omit_defaults=True):
    """`regrow_partitions`, key `own.<app>.<build>.<part>`: who folds the partition's processes of that build.

    Attributes:
        host: its id; empty when nobody.
        epoch: grows with every change of owner; the cursor is written under it.
    """

    host: str
    epoch: int


class Stuck(Struct, frozen=True, omit_defaults=True):
    """A parked process: it diverged, hung, took hosts down, or its output was refused.

    Attributes:
        seq: the input that it cannot take.
        vague: its host still looks for the line; the reason that names it follows in a moment.
    """

    seq: int
    code: str
    reason: str
    vague: bool = False


class Suspect(Struct, frozen=True, omit_defaults=True):
    """The turn that a recovering host was about to make: if it is found, that turn may have taken the host down.

    Attributes:
        seq: the input; 0 for waking a process that was busy, and for its steps and `restart` body.
        attempts: how many hosts in a row ended there while they recovered, once this one does. With 1 it is where a
            slice of inputs begins, any of which it may be.
        survived: seconds that this host has gone on since steps and bodies began again; 0 before that.
    """

    pid: str
    seq: int
    attempts: int
    survived: float = 0.0


class Cursor(Struct, frozen=True, omit_defaults=True):
    """`regrow_cursors`, key `<app>.<build>.<part>`, written by compare-and-set under the owner's epoch.

    Attributes:
        floor: every input up to it is applied and its outputs are acknowledged, but for those of `stuck`.
        busy: processes that do what the stream does not hold: a local step, an unscheduled timer, a `restart` body.
        stuck: parked processes, by pid.
        clean: the owner let go of the partition by itself; after any other end the next one recovers turn by turn.
        suspect: the turn under way in a recovery.
        released: the owner let go by itself, but in the middle of a recovery: nobody waits for it, the next one goes on
            with that.
    """

    epoch: int
    floor: int
    busy: list[str] = []
    stuck: dict[str, Stuck] = {}
    clean: bool = False
    suspect: Suspect | None = None
    released: bool = False


class ProcessRecord(Struct, frozen=True, omit_defaults=True):
    """`regrow_processes`, key `<pid>`: a projection of events for listing, never the truth.

    Attributes:
        status: `running`, `done`, `failed`, `cancelled`; `stuck` is in the cursors.
        seq: stream sequence of the event it was last made from.
        error: of a failed one.
    """

    pid: str
    app: str
    type: str
    build: str
    status: str
    seq: int
    parent: str | None = None
    root: str = ""
    name: str = ""
    program: Program | None = None
    incarnation: int = 0
    started: float = 0.0
    ended: float = 0.0
    error: str = ""
    tags: dict[str, str] = {}


_encoder = msgspec.json.Encoder()
_input_decoder: msgspec.json.Decoder[Input] = msgspec.json.Decoder(Input)

encode = _encoder.encode
"""Any message body to JSON bytes."""

decode_input = _input_decoder.decode
"""An inbox message's bytes to its `Input`; raises `msgspec.MsgspecError` for what is none."""


def decode(data: bytes | Raw, type_: Any) -> Any:
    """JSON bytes to `type_`; raises `msgspec.MsgspecError`."""
    return msgspec.json.decode(data, type=type_)
