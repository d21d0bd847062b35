"""What one incarnation of a process has asked of others: children, calls, watched events, commands to services.

Each is known by the operation that asked; the answers come in as inputs. What nobody waits for any more is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, Raw
from regrow_protocol import messages as m
from regrow_protocol.messages import Failure, Op, Ref

from .commanding import Commands
from .definition import Bound
from .failures import failed_record
from .forking import FORKED
from .handle import EventFeed, Wait
from .machines.keepsakes import Keepsakes
from .operations import Child, Output
from .outcomes import last_failure
from .supervision.policy import Keeper

if TYPE_CHECKING:
    from .process import Process


class Relations:
    """Of one incarnation.

    Attributes:
        children: by pid; one that was awaited as a call is gone with its end.
        open: children that have not ended, by the operation that spawned them.
        calls: calls and commands that are not answered, by operation; each is settled with its answer.
        commands: to services.
        keepsakes: snapshots of machines when the process fails.
        severed: pids of children that belong to the process whose history was copied.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.children: dict[str, Child] = {}
        self.open: dict[int, Child] = {}
        self.calls: dict[int, Any] = {}
        self.commands = Commands(process)
        self.keepsakes = Keepsakes(process)
        self.severed: frozenset[str] = frozenset()
        self._uncancelled: dict[int, Child] = {}
        self._fresh: dict[str, Output] = {}
        self._feeds: dict[str, EventFeed] = {}
        self._watch_ops: dict[int, str] = {}
        self._request_numbers: dict[str, int] = {}

    def new_input(self) -> None:
        """A turn begins: the starts of the last one are out, and can be added to no more."""
        if self._fresh:
            self._fresh.clear()

    def _by(self, op: Op) -> Ref:
        return Ref(self._process.pid, self._process.incarnation, op.n)

    def _next(self, pid: str) -> int:
        """The number of the next request to `pid`."""
        k = self._request_numbers[pid] = self._request_numbers.get(pid, 0) + 1
        return k

    # Asking -----------------------------------------------------------------------------------------------------------

    def start_child(
        self,
        pid: str,
        type_name: str,
        bound: Bound,
        op: Op,
        pending: Any,
        *,
        keeper: Keeper | None = None,
    ) -> Child:
        """Start a child; `keeper` decides what becomes of one that goes down."""
        process = self._process
        assert process.start is not None
        child = self.children[pid] = self.open[op.n] = self._uncancelled[op.n] = Child(
            pid, op, pending, type_name, bound.args
        )
        start = m.Start(
            type=type_name, args=bound.args, build=process.build, parent=self._by(op),
            root=process.start.root or process.pid, op=op, name=bound.name, machine=bound.machine,
            restart="" if bound.restart == "temporary" else bound.restart, tags=bound.tags, fold=process.start.fold,
        )  # fmt: skip
        child.keeper = keeper
        output = self._fresh[pid] = Output("inbox", pid, start, op.n)
        process.outputs.append(output)
        return child

    def call(self, pid: str, endpoint: str, raw: Raw, op: Op, pending: Any, *, wait: Wait) -> None:
        """Call an endpoint of another process."""
        if pid in self.severed:
            pending.settle(UNSET, FORKED)
            return
        self.calls[op.n] = pending
        call = m.Call(
            endpoint=endpoint, args=raw, op=op, by=self._by(op), k=self._next(pid), wait=bool(wait),
            again=wait == "restart",
        )  # fmt: skip
        self._process.send(pid, call, op.n)

    def command(
        self,
        name: str,
        subject: str,
        raw: Raw,
        pending: Callable[[Op], Any],
        id_: str = "",
        *,
        compared: bytes | None = None,
    ) -> Op:
        """Send a command to a service; `pending` makes what its answer is settled with."""
        op = self._process.operation("command", name, raw if compared is None else compared)
        self.calls[op.n] = pending(op)
        self.keepsakes.asked(op, subject, raw)
        self.commands.send(name.partition(".")[2], subject, raw, op, id_=id_)
        return op

    def tell(self, name: str, subject: str, raw: Raw, compared: bytes | None = None) -> None:
        """Send a command that has no answer."""
        op = self._process.operation("tell", name, raw if compared is None else compared)
        self.keepsakes.asked(op, subject, raw)
        self.commands.send(name.partition(".")[2], subject, raw, op, awaited=False)

    def link(self, pid: str, *, off: bool = False) -> None:
        """Link another process, or unlink it."""
        op = self._process.operation("unlink" if off else "link", pid)
        if pid not in self.severed:
            self._process.send(pid, m.Link(off=off, by=self._by(op), k=self._next(pid)), op.n)

    def signal(self, pid: str, name: str, raw: Raw) -> None:
        """Send a signal to another process."""
        op = self._process.operation("signal", name, raw)
        if pid not in self.severed:
            self._process.send(pid, m.Signal(name=name, data=raw, by=self._by(op), k=self._next(pid)), op.n)

    def watch(self, pid: str) -> EventFeed:
        """The events of `pid`."""
        feed = self._feeds.get(pid)
        if feed is None:
            feed = EventFeed(self._process.clock)
            self.watch_into(pid, feed)
        return feed

    def watch_into(self, pid: str, feed: Any) -> None:
        """Have the events of `pid` forwarded, from the first, into `feed`."""
        self._feeds[pid] = feed
        if (start := self._fresh.get(pid)) is not None:
            start.message = msgspec.structs.replace(start.message, watch=True)
            self._watch_ops[self.children[pid].op.n] = pid
            return
        process = self._process
        op = process.operation("watch", pid)
        if pid in self.severed:
            feed.push(failed_record(pid, 1, process.clock, FORKED))
            return
        self._watch_ops[op.n] = pid
        process.send(pid, m.Watch(by=self._by(op), k=self._next(pid)), op.n)

    def cancel(self, pid: str, reason: str = "") -> None:
        """Cancel another process; a child once."""
        child = self.children.get(pid)
        if child is not None and self._uncancelled.pop(child.op.n, None) is None:
            return
        self._send_cancel(pid, reason=reason)

    def _send_cancel(self, pid: str, *, reason: str = "", hold: bool = False, kill: bool = False) -> None:
        op = self._process.operation("cancel", pid)
        cancel = m.Cancel(reason=reason, hold=hold, kill=kill, by=self._by(op), k=self._next(pid))
        self._process.send(pid, cancel, op.n)

    def take_down(self, child: Child, *, hold: bool = False, kill: bool = False) -> None:
        """End a child; with `hold` it goes down only, with `kill` by force."""
        if not hold:
            self._uncancelled.pop(child.op.n, None)
        self._send_cancel(child.pid, reason="stopped by its supervisor", hold=hold, kill=kill)

    def again(self, child: Child) -> None:
        """Start a child that is down again."""
        op = self._process.operation("again", child.pid)
        self._process.send(child.pid, m.Again(incarnation=child.next_run), op.n)

    def cancel_children(self, reason: str, *, grouped: bool = True) -> None:
        """Cancel all children that live; without `grouped` not those that their keeper stops in its own order."""
        for child in list(self._uncancelled.values()):
            if grouped or child.keeper is None or not child.keeper.stops_in_order:
                self.cancel(child.pid, reason)

    def failure_of(self, pid: str) -> Failure | None:
        """Why another process failed last, as far as is known here."""
        child = self.children.get(pid)
        if child is not None and child.failure is not None:
            return child.failure
        feed = self._feeds.get(pid)
        return last_failure(feed) if feed is not None else None

    def status_of(self, pid: str) -> str:
        """How another process stands, as far as is known here."""
        feed = self._feeds.get(pid)
        if feed is not None and feed.ended:
            return feed.events[-1].type  # the last event comes before the outcome
        child = self.children.get(pid)
        return child.status if child is not None else "running"

    # Answers ----------------------------------------------------------------------------------------------------------

    def answered(self, message: m.Result) -> None:
        """A call or a command was answered."""
        call = self.calls.pop(message.op.n, None)
        if call is None:
            return
        if message.op.kind == "command":
            self.keepsakes.answered(message.op, message.value)
            self.commands.settled(message.op.n)
        call.settle(message.value, message.error)

    def child_ended(self, message: m.Child) -> None:
        """A child's outcome has come."""
        child = self.open.get(message.op.n)
        if child is None:
            return
        if message.down:
            if message.run < child.next_run:
                return  # a repeat
            child.next_run = message.run + 1
            child.failed(message.error)
            if child.keeper is not None:
                child.keeper.went_down(child, message)
            return
        del self.open[message.op.n]
        self._uncancelled.pop(message.op.n, None)
        child.end(message)
        if child.keeper is not None:
            child.keeper.ended(child, message)
        if not child.feed_wanted:
            self.children.pop(child.pid, None)

    def event(self, message: m.Event) -> None:
        """An event of a watched process has come."""
        if (pid := self._watch_ops.get(message.n)) is not None:
            self._feeds[pid].push(message.event)

    # The end ----------------------------------------------------------------------------------------------------------

    def cut_off(self) -> None:
        """A copied history ends here: whoever was asked is asked by another process (`forking`)."""
        process = self._process
        self._request_numbers.clear()
        self._fresh.clear()
        self.keepsakes.clear()
        self.severed = frozenset(child.pid for child in self.open.values())
        self.open.clear()
        self._uncancelled.clear()
        awaited = [step.pending for step in process.steps.values()]
        awaited += self.calls.values()
        for pid in sorted(self.severed):
            child = self.children[pid]
            child.ended, child.status = True, "failed"
            awaited.append(child.pending)
            if not child.feed_wanted:
                del self.children[pid]
        process.steps.clear()
        self.calls.clear()
        for pending in awaited:
            pending.settle(UNSET, FORKED)
        for pid, feed in self._feeds.items():
            if not feed.ended:
                feed.push(failed_record(pid, feed.last + 1, process.clock, FORKED))

    def drop(self) -> None:
        """Wait for nothing any more."""
        self.calls.clear()
        self.commands.clear()
        self._watch_ops.clear()

    def forget(self) -> None:
        """Its process has left memory."""
        self.commands.forget()
        self.keepsakes.forget()
        for feed in self._feeds.values():
            feed.forget()
        self.children.clear()
        self.open.clear()
        self._uncancelled.clear()
        self.calls.clear()
        del self._process
