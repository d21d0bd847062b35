"""How an incarnation ends: for good, down (its parent decides whether it comes again), or into the next one at once.

An incarnation has ended when its body has, its tasks and generators have, and its children have. What it ended with was
decided before, by whichever came first. It goes *down* where its parent said so in `start` (`restart`), or told it to
(`cancel` with `hold`): it tells its parent and nobody else, and what comes in waits. `again` begins the next
incarnation; `cancel` makes the end final, as it was. Only a final end is announced as such.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Raw
from regrow_protocol import messages as m
from regrow_protocol.messages import Failure

from .codec import NULL, to_raw
from .errors import ProcessEnded
from .failures import failure_data

if TYPE_CHECKING:
    from .process import Process


class Endings:
    """Of one incarnation.

    Attributes:
        down: it has ended, and waits for its parent's word.
        lost_at: input that ended it when the next one follows at once; 0 otherwise.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.down = False
        self.lost_at = 0
        self._next_args: Raw | None = None
        self._held = False
        self._recalled = False

    @property
    def comes_again(self) -> bool:
        """Another incarnation follows, or may."""
        return bool(self.lost_at) or self._asks_parent()

    def cancelled(self, message: m.Cancel) -> None:
        """It was told to end."""
        start = self._process.start
        assert start is not None
        by_parent = message.by is not None and start.parent is not None and message.by.pid == start.parent.pid
        self._held = by_parent and message.hold
        self._recalled |= by_parent and not message.hold

    def _asks_parent(self) -> bool:
        process = self._process
        start, outcome = process.start, process.result_raw
        if start is None or start.parent is None or outcome is None or self._recalled:
            return False
        if self._held:
            return True
        status, _, failure = outcome
        if not start.restart or (failure is not None and not failure.retryable):
            return False
        return start.restart == "permanent" or status == "failed"

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
        elif self._asks_parent():
            self._go_down()
        else:
            self._end()

    def _end(self) -> None:
        process = self._process
        status, value, failure = self._outcome()
        data = value if status == "done" else NULL
        if status == "failed":
            assert failure is not None
            data = to_raw(failure_data(failure, process.start.args if process.start is not None else None))
        process.announce(status, data, meta=process.meta(), final=True)
        process.publication.ended()
        self._tell_parent()
        process.leave_loop()

    def _go_down(self) -> None:
        self.down = True
        self._tell_parent(down=True)
        self._process.leave_loop(waiting=True)

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
        """The parent starts it again; `down_at`: the input that it went down with."""
        if self.down and message.incarnation == self._process.incarnation + 1:
            self.down = False
            self.lost_at = down_at
            self._begin_next(restarts=0)

    def let_go(self) -> None:
        """The parent will not start it again."""
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
            failure=self._outcome()[2] if not restarts else None,
            continued=self._next_args is not None,
            tags=process.tags,
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
