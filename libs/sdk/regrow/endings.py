"""How an incarnation ends: for good, down (others decide whether it comes again), or into the next one at once.

An incarnation has ended when its body has, its tasks and generators have, and its children have. What it ended with was
decided before, by whichever came first. It goes *down* where its parent said so in `start` (`restart`), or told it to
(`cancel` with `hold`): it tells its parent and nobody else, and what comes in waits. `again` begins the next
incarnation; `cancel` makes the end final, as it was. Only a final end is announced as such. A root goes down where its
type, or who started it, said so; it announces `down`, and the supervisor sends `again` after the back-off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw
from regrow_protocol import messages as m
from regrow_protocol.messages import Failure

from .codec import NULL
from .errors import ProcessEnded
from .failures import failure_raw

if TYPE_CHECKING:
    from .process import Process


class Endings:
    """Of one incarnation.

    Attributes:
        down: it has ended, and waits for the word of its parent, or of the supervisor.
        lost_at: input that ended it when the next one follows at once; 0 otherwise.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.down = False
        self.lost_at = 0
        self._next_args: Raw | None = None
        self._held = False
        self._recalled = False
        self._ends = 0

    @property
    def comes_again(self) -> bool:
        """Another incarnation follows, or may."""
        return bool(self.lost_at) or self._goes_down()

    def cancelled(self, message: m.Cancel) -> None:
        """It was told to end."""
        start = self._process.start
        assert start is not None
        by_parent = message.by is not None and start.parent is not None and message.by.pid == start.parent.pid
        self._held = by_parent and message.hold
        self._recalled |= start.parent is None or (by_parent and not message.hold)

    def _goes_down(self) -> bool:
        outcome = self._process.result_raw
        if outcome is None or self._recalled:
            return False
        if self._held:
            return True
        status, _, failure = outcome
        if failure is not None and not failure.retryable:
            return False
        policy = self._policy()
        return policy == "permanent" or (policy == "transient" and status == "failed")

    def _policy(self) -> str:
        start, type_ = self._process.start, self._process.type
        assert start is not None
        if start.restart or start.parent is not None or type_ is None:
            return start.restart
        return type_.options.restart

    def continue_with(self, args: Raw) -> None:
        """The body asks for a next incarnation, with other arguments."""
        self._next_args = args
        self.lost_at = self._process.applied

    def finish(self) -> None:
        """All that belongs to the incarnation has ended."""
        self._process.links.end()
        self._process.admission.release()
        if self.lost_at:
            self._begin_next(restarts=0 if self._next_args is not None else 1)
        elif self._goes_down():
            self._go_down()
        else:
            self._end()

    def _end(self) -> None:
        process = self._process
        status, value, failure = self._outcome()
        data = value if status == "done" else NULL
        if status == "failed":
            assert failure is not None
            data = failure_raw(failure, process.start.args if process.start is not None else None)
        process.announce(status, data, meta=process.meta(), final=True)
        process.publication.ended()
        self._tell_parent()
        process.leave_loop()

    def _go_down(self) -> None:
        self.down = True
        start = self._process.start
        assert start is not None
        if start.parent is None:
            self._announce_down()
        else:
            self._tell_parent(down=True)
        self._process.leave_loop(waiting=True)

    def _announce_down(self) -> None:
        """A root asks the supervisor to be started again."""
        process = self._process
        start, type_ = process.start, process.type
        assert start is not None
        assert type_ is not None
        backoff = type_.options.backoff
        before = start.carry.ends if start.carry is not None else 0
        self._ends = backoff.in_a_row(before, process.clock - process.began_at)
        status, _, failure = self._outcome()
        down = m.RootDown(
            status=status,
            again_at=process.clock + backoff.delay(self._ends, process.seed),
            failure=failure_raw(failure, start.args) if status == "failed" and failure is not None else UNSET,
        )
        process.announce("down", Raw(m.encode(down)), meta=process.meta())

    def _tell_parent(self, *, down: bool = False) -> None:
        process = self._process
        start = process.start
        assert start is not None
        if start.parent is None or start.op is None:
            return
        status, value, failure = self._outcome()
        child = m.Child(
            incarnation=start.parent.incarnation,
            op=start.op,
            pid=process.pid,
            status=status,
            down=down,
            run=process.incarnation,
            value=value if status == "done" else UNSET,
            error=failure,
        )
        process.send(start.parent.pid, child)

    def _outcome(self) -> tuple[m.Status, Raw, Failure | None]:
        """How it ended, with the snapshots of its machines."""
        process = self._process
        outcome = process.result_raw
        assert outcome is not None
        status, value, failure = outcome
        if status == "failed" and failure is not None:
            failure = msgspec.structs.replace(failure, snapshots=process.relations.keepsakes.snapshots)
        return status, value, failure

    def again(self, message: m.Again, down_at: int) -> None:
        """It is started again; `down_at`: the input that it went down with."""
        if self.down and message.incarnation == self._process.incarnation + 1:
            self.down = False
            self.lost_at = down_at
            self._begin_next(restarts=0)

    def let_go(self) -> None:
        """It will not be started again."""
        self.down = False
        self._recalled = True
        self._end()

    def _begin_next(self, *, restarts: int) -> None:
        """Write the next incarnation's start into the own inbox."""
        process = self._process
        start = process.start
        assert start is not None
        args = start.args if self._next_args is None else self._next_args
        unanswered = process.take_unanswered()
        carry = m.Carry(
            events=process.events_announced,
            started=process.started_at,
            watchers=process.watchers,
            marks=process.marks,
            lost=self.lost_at,
            open=[seq for _, seq in unanswered],
            spent=process.spent,
            failure=self._outcome()[2] if not restarts else None,
            continued=self._next_args is not None,
            tags=process.tags,
            ends=self._ends,
        )
        process.send(
            process.pid,
            m.Start(
                type=start.type, args=args, build=process.build, incarnation=process.incarnation + 1,
                since=min([self.lost_at, *(seq - 1 for seq in carry.open)]), parent=start.parent, root=start.root,
                op=start.op, name=start.name, program=start.program, restarts=start.restarts + restarts, carry=carry,
                machine=start.machine, restart=start.restart, fold=start.fold,
            ),
        )  # fmt: skip
        process.leave_loop(waiting=True)

    def closing_error(self) -> ProcessEnded:
        """What calls under way are answered when the body has ended."""
        pid = self._process.pid
        if not self.comes_again:
            return ProcessEnded(f"The process {pid} has ended", hint="start a new one")
        why = "lost its host" if self.lost_at and self._next_args is None else "ended"
        return ProcessEnded(
            f"The process {pid} {why} during the call and is started again",
            hint="call again, if what it does may be done twice",
        )

    def forget(self) -> None:
        """Its process has left memory."""
        del self._process
