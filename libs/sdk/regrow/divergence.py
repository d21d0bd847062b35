"""A fold that makes other operations than those whose answers are recorded has diverged: its program was changed, or is
not deterministic."""

from __future__ import annotations

from regrow_protocol.messages import Op

from .errors import NondeterminismError


class Diverged(Exception):
    """A recorded answer does not fit the operations of this fold.

    Args:
        recorded: the operation as its answer echoes it.
        trace: the fold's own operations with their lines, by number, where it keeps them.
        seq: the input with the answer.
        what: kind of the answer.
        made: how many operations the fold has made.
    """

    def __init__(self, recorded: Op, trace: dict[int, tuple[Op, str]] | None, seq: int, what: str, made: int) -> None:
        super().__init__(recorded, seq)
        self.recorded = recorded
        self.traced = trace is not None
        self.attempted = trace.get(recorded.n) if trace is not None else None
        self.seq = seq
        self.what = what
        self.made = made

    def explain(self, pid: str) -> NondeterminismError:
        """The error for people: recorded against attempted."""
        recorded = f"{self.recorded.kind} {self.recorded.name}".strip()
        return NondeterminismError(
            f"process {pid} diverged at input {self.seq} ({self.what}): recorded operation {self.recorded.n} was "
            f"{recorded}; {self._now()}",
            hint="undo the change of the code, or guard it as docs/guides/determinism.md says; then "
            "`regrow resume PID`",
        )

    def _now(self) -> str:
        if self.recorded.n > self.made:
            return f"the code now makes only {self.made} operations up to there"
        if self.attempted is None:
            return f"the code now does {'none' if self.traced else 'something else'} there"
        op, line = self.attempted
        now = f"the code now does {op.kind} {op.name}".rstrip()
        if (op.kind, op.name) == (self.recorded.kind, self.recorded.name):
            now += " with other arguments" if op.digest != self.recorded.digest else " after other operations"
        return f"{now} ({line})"
