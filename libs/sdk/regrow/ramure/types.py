"""What commands and processes come to, as ramure has it."""

from __future__ import annotations

from dataclasses import dataclass

from .. import errors


@dataclass(frozen=True)
class ExecResult:
    """How a command on a machine ended.

    Attributes:
        exit_code: 124 when its time was over.
        stdout, stderr: what it wrote.
        command: what was run.
    """

    exit_code: int
    stdout: str
    stderr: str
    command: str = ""

    @property
    def ok(self) -> bool:
        """It ended with 0."""
        return self.exit_code == 0


class ExecutionFailed(errors.ExecutionFailed, RuntimeError):
    """`wait()` raises it after `fail(reason)`, and so does a process whose body does not catch it.

    Attributes:
        reason: what `fail` was given.
    """
