"""The limits of one incarnation: how long it may take, how long it may be still, and how much may be asked of it.

Times are durable timers of the fold. Beyond a limit of use the caller gets Overloaded, and the process announces
`overloaded`, once until it has room again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from regrow_protocol import messages as m
from regrow_protocol.messages import Failure

from .codec import to_raw
from .errors import Overloaded, failure_of
from .failures import pending_in
from .loop import DeterministicTimer
from .options import Options

if TYPE_CHECKING:
    from .process import Process


class Limits:
    """Of one incarnation."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._options = Options()
        self._progress = 0.0
        self._stall: DeterministicTimer | None = None
        self._full: set[str] = set()

    def begin(self, options: Options) -> None:
        """The incarnation begins."""
        self._options = options
        loop, process = self._process.loop, self._process
        if not options.limits:
            self.body_begins()
        if options.deadline is not None:
            loop.call_at(process.started_at + options.deadline, self._too_late, options.deadline)
        if options.stall_after is not None:
            self._watch_for_stall(options.stall_after)

    def body_begins(self) -> None:
        """It has what it waited for; its time runs."""
        timeout = self._options.timeout
        if timeout is not None:
            self._process.loop.call_later(timeout, self._timed_out, timeout)

    def _timed_out(self, seconds: float) -> None:
        self._process.give_up(Failure("TimeoutError", f"timed out after {seconds:g} s", "timeout"), "timed out")

    def _too_late(self, seconds: float) -> None:
        text = f"its deadline of {seconds:g} s is over"
        self._process.give_up(Failure("TimeoutError", text, "deadline", retryable=False), "too late")

    # Progress ---------------------------------------------------------------------------------------------------------

    def input(self, message: m.Message) -> None:
        """An input has come."""
        ours = isinstance(message, m.Timer) and self._stall is not None and message.op.n == self._stall.n
        if not ours:
            self._progress = self._process.clock

    def _watch_for_stall(self, seconds: float) -> None:
        handle = self._process.loop.call_later(seconds, self._look)
        assert isinstance(handle, DeterministicTimer)
        self._stall = handle

    def _look(self) -> None:
        """Announce `stalled` when nothing has come for as long as it may be still."""
        process, limit = self._process, self._options.stall_after
        assert limit is not None
        if process.result_raw is not None:
            return
        still = process.clock - self._progress
        if still + 1e-6 >= limit:
            data = {"seconds": round(still, 3), "pending": pending_in(process)}
            process.announce("stalled", to_raw(data))
            self._watch_for_stall(limit)
        else:
            self._watch_for_stall(limit - still)

    # Use --------------------------------------------------------------------------------------------------------------

    def child(self) -> Overloaded | None:
        """Whether one child more is too many."""
        return self._over("max_children", self._options.max_children, len(self._process.relations.open))

    def call(self, under_way: int) -> Failure | None:
        """Whether one call more is too many, when so many are under way."""
        return self._failure(self._over("max_pending_calls", self._options.max_pending_calls, under_way))

    def waiting(self) -> Failure | None:
        """Whether one call or signal more that has to wait is too many."""
        limit = self._options.max_inbox
        if limit is None:
            return None
        process = self._process
        waiting = len(process.endpoints.waiting) + len(process.mailbox.unread)
        return self._failure(self._over("max_inbox", limit, waiting))

    @staticmethod
    def _failure(over: Overloaded | None) -> Failure | None:
        return failure_of(over) if over is not None else None

    def _over(self, name: str, limit: int | None, now: int) -> Overloaded | None:
        if limit is None:
            return None
        if now < limit:
            self._full.discard(name)
            return None
        process = self._process
        if name not in self._full:
            self._full.add(name)
            process.announce("overloaded", to_raw({"limit": name, "most": limit}))
        assert process.start is not None
        text = f"The process {process.pid} ({process.start.type}) is at its limit {name}={limit}"
        return Overloaded(text, hint="try again later")

    def forget(self) -> None:
        """Its process has left memory."""
        self._stall = None
        del self._process
