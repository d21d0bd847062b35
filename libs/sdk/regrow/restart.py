"""`resume="restart"`: the body is an ordinary coroutine on the host's loop, so what it does follows from no inbox.

It is a client of its own process: each thing it asks for is recorded in the process's inbox as an `act`, and the fold
does it. So the process stays a fold, and its events, children and answers survive the body. When the host dies, the
next one records `host_lost`; the fold ends the incarnation, children first, and starts the next one. Calls that were
being answered get ProcessEnded, for nobody knows how much of them was done; whatever comes later is for the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from regrow_protocol import messages as m
from regrow_protocol.agents import Tool
from regrow_protocol.messages import Failure

from .codec import NULL
from .definition import Bound
from .errors import failure_of
from .supervision.policy import Alone

if TYPE_CHECKING:
    from .process import Process


class Spawn(Bound, omit_defaults=True, kw_only=True):
    """Act `spawn`."""

    pid: str
    type: str


class CommandAct(Struct, omit_defaults=True):
    """Acts `command` and `tell`: a request to a service."""

    name: str
    subject: str
    args: Raw
    stream: bool = False


class CallAct(Struct, omit_defaults=True):
    """Act `call`."""

    pid: str
    endpoint: str
    args: Raw
    wait: bool = False
    again: bool = False


class SignalAct(Struct, omit_defaults=True):
    """Act `signal`."""

    pid: str
    name: str
    data: Raw = NULL


class EmitAct(Struct, omit_defaults=True):
    """Act `emit`."""

    type: str
    data: Raw = NULL
    source: str | None = None


class Outcome(Struct, omit_defaults=True):
    """Acts `end`, `decide` and `answer`: how the body, the process or endpoint call `key` ended."""

    status: m.Status = "done"
    value: Raw | UnsetType = UNSET
    error: Failure | None = None
    key: int = 0


class Target(Struct, omit_defaults=True):
    """Acts `watch`, `cancel`, `link`, `unlink`, `receive`, `leave`: the pid or name they are about.

    Attributes:
        reason: of `leave`, the number of the `receive` that waits no more.
    """

    name: str
    reason: str = ""


class ExposeAct(Struct, omit_defaults=True):
    """Act `expose`; without a `tool` for what only its process knows of."""

    name: str
    tool: Tool | None = None


class ChunkDelivery(Struct):
    """A piece of a command's answer."""

    channel: str
    offset: int
    data: bytes


class Delivery(Struct):
    """What the fold hands to the running body.

    Attributes:
        what: `result` of act `m`, `chunk` of it, `event` for the watch act `m`, endpoint `call` number `m`, `cancel`.
    """

    what: str
    m: int
    value: Raw | UnsetType = UNSET
    error: Failure | None = None


class _Remote:
    """Stands where a deterministic body has a Pending."""

    __slots__ = ("body", "m")

    def __init__(self, body: RestartBody, number: int) -> None:
        self.body = body
        self.m = number

    def settle(self, value: Raw | UnsetType, failure: Failure | None) -> None:
        self.body.deliveries.append(Delivery("result", self.m, value, failure))


class _RemoteChunks:
    """Stands where a deterministic body has a feed of an answer's pieces."""

    __slots__ = ("body", "m")

    def __init__(self, body: RestartBody, number: int) -> None:
        self.body = body
        self.m = number

    def push(self, channel: str, offset: int, data: bytes) -> None:
        self.body.deliveries.append(Delivery("chunk", self.m, Raw(m.encode(ChunkDelivery(channel, offset, data)))))


class _RemoteFeed:
    """Stands where a deterministic body has an EventFeed."""

    __slots__ = ("body", "m")

    def __init__(self, body: RestartBody, number: int) -> None:
        self.body = body
        self.m = number

    def push(self, record: m.EventRecord) -> None:
        self.body.deliveries.append(Delivery("event", self.m, Raw(m.encode(record))))

    def forget(self) -> None:
        """It has no subscribers."""


class RestartBody:
    """The fold's side of a `restart` body.

    Attributes:
        running: the body has begun and not ended, as far as the inbox says.
        deliveries: what the host shall hand to the body.
        wants_restart: this incarnation ends because its host died, and another one may follow.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.running = True
        self.deliveries: list[Delivery] = []
        self.wants_restart = False
        self._last = 0
        self._early: dict[int, m.Act] = {}
        self._readers: dict[int, _Remote] = {}
        process.endpoints.hold_all = True

    def forget(self) -> None:
        """Its process has left memory."""
        del self._process

    def deliver(self, what: str, number: int, value: Raw | UnsetType = UNSET) -> None:
        """Hand something to the body."""
        self.deliveries.append(Delivery(what, number, value))

    def cancel(self) -> None:
        """Cancel the body."""
        self.deliver("cancel", 0)

    def host_lost(self, message: m.HostLost) -> None:
        """The body is gone with its host."""
        if not self.running:
            return
        self.running = False
        process = self._process
        assert process.type is not None
        assert process.start is not None
        limit = process.type.options.max_restarts
        if process.result_raw is None and (limit is None or process.start.restarts < limit):
            self.wants_restart = True
            process.body_ended("failed", NULL, Failure("HostLost", "its host was lost", "host-lost"))
            return
        text = f"its host {message.host} was lost and it may not be restarted again (max_restarts={limit})"
        process.body_ended("failed", NULL, Failure("HostLost", text, "host-lost"))

    def act(self, act: m.Act) -> None:
        """Do what the body asked for; acts are taken in their order, each once."""
        if not self.running or act.m <= self._last:
            return
        self._early[act.m] = act
        while (following := self._early.pop(self._last + 1, None)) is not None:
            self._last += 1
            self._do(following)

    def _do(self, act: m.Act) -> None:
        do = _ACTS.get(act.what)
        if do is None:
            self._process.operation("unknown", act.what)
        else:
            do(self, act)

    def _command(self, act: m.Act) -> None:
        asked = msgspec.json.decode(act.data, type=CommandAct)
        process, remote = self._process, _Remote(self, act.m)
        id_ = f"{process.pid}.{process.incarnation}.b{act.m}"  # the body knows it before the fold does
        op = process.relations.command(asked.name, asked.subject, asked.args, lambda _: remote, id_)
        if asked.stream:
            process.relations.commands.feed(op.n, _RemoteChunks(self, act.m))

    def _tell(self, act: m.Act) -> None:
        asked = msgspec.json.decode(act.data, type=CommandAct)
        self._process.relations.tell(asked.name, asked.subject, asked.args)

    def _call(self, act: m.Act) -> None:
        call = msgspec.json.decode(act.data, type=CallAct)
        op = self._process.operation("call", call.endpoint, call.args)
        remote = _Remote(self, act.m)
        wait = "restart" if call.again else call.wait
        self._process.relations.call(call.pid, call.endpoint, call.args, op, remote, wait=wait)

    def _emit(self, act: m.Act) -> None:
        emit = msgspec.json.decode(act.data, type=EmitAct)
        self._process.emit_raw(emit.type, emit.data, emit.source)

    def _watch(self, act: m.Act) -> None:
        self._process.relations.watch_into(_target(act).name, _RemoteFeed(self, act.m))

    def _cancel(self, act: m.Act) -> None:
        target = _target(act)
        self._process.cancel(target.name, target.reason)

    def _expose(self, act: m.Act) -> None:
        process, exposed = self._process, msgspec.json.decode(act.data, type=ExposeAct)
        op = process.operation("expose", exposed.name)
        process.endpoints.expose(exposed.name, None)
        process.publication.exposed(exposed.tool, op.n)

    def _turn(self, act: m.Act) -> None:
        del act
        self._process.endpoints.release()
        self._process.publication.first_turn_over()

    def _answer(self, act: m.Act) -> None:
        outcome = msgspec.json.decode(act.data, type=Outcome)
        self._process.endpoints.settle(outcome.key, outcome.value, outcome.error)

    def _continue(self, act: m.Act) -> None:
        self.running = False
        self._process.continued(act.data)

    def _link(self, act: m.Act) -> None:
        self._process.links.link(_target(act).name)

    def _unlink(self, act: m.Act) -> None:
        self._process.links.unlink(_target(act).name)

    def _tags(self, act: m.Act) -> None:
        self._process.set_tags(msgspec.json.decode(act.data, type=dict[str, str | None]))

    def _signal(self, act: m.Act) -> None:
        signal = msgspec.json.decode(act.data, type=SignalAct)
        self._process.relations.signal(signal.pid, signal.name, signal.data)

    def _receive(self, act: m.Act) -> None:
        name = _target(act).name
        self._process.operation("receive", name)
        reader = self._readers[act.m] = _Remote(self, act.m)
        self._process.mailbox.read(name, reader)

    def _leave(self, act: m.Act) -> None:
        target = _target(act)
        if (reader := self._readers.pop(int(target.reason), None)) is not None:
            self._process.mailbox.leave(target.name, reader)

    def _spawn(self, act: m.Act) -> None:
        process = self._process
        if (over := process.limits.child()) is not None:
            self.deliveries.append(Delivery("result", act.m, UNSET, failure_of(over)))
            return
        spawn = msgspec.json.decode(act.data, type=Spawn)
        op = process.operation("spawn", spawn.type, spawn.args)
        keeper = Alone(process, spawn.backoff) if spawn.restart != "temporary" else None
        process.relations.start_child(spawn.pid, spawn.type, spawn, op, _Remote(self, act.m), keeper=keeper)

    def _decide(self, act: m.Act) -> None:
        """Acts that end the process, or the body."""
        process = self._process
        outcome = msgspec.json.decode(act.data, type=Outcome)
        value = outcome.value if isinstance(outcome.value, Raw) else NULL
        if act.what == "decide":
            process.operation(outcome.status, "", value)
            process.decide(outcome.status, value, outcome.error)
        else:
            self.running = False
            process.body_ended(outcome.status, value, outcome.error)


def _target(act: m.Act) -> Target:
    return msgspec.json.decode(act.data, type=Target)


_ACTS: dict[str, Callable[[RestartBody, m.Act], None]] = {
    "spawn": RestartBody._spawn,
    "command": RestartBody._command,
    "tell": RestartBody._tell,
    "call": RestartBody._call,
    "emit": RestartBody._emit,
    "watch": RestartBody._watch,
    "cancel": RestartBody._cancel,
    "expose": RestartBody._expose,
    "turn": RestartBody._turn,
    "answer": RestartBody._answer,
    "tags": RestartBody._tags,
    "signal": RestartBody._signal,
    "receive": RestartBody._receive,
    "leave": RestartBody._leave,
    "link": RestartBody._link,
    "unlink": RestartBody._unlink,
    "continue": RestartBody._continue,
    "decide": RestartBody._decide,
    "end": RestartBody._decide,
}
