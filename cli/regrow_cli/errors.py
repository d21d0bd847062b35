"""What the command and the embedded stack raise themselves."""

from __future__ import annotations

from typing import Any

import msgspec
from regrow_protocol import messages as m
from regrow_protocol.errors import RegrowError


class DataDirUnusable(RegrowError):
    """The data folder cannot be made, is not ours, or holds something else."""

    code = "data-dir-unusable"


class StackFailed(RegrowError):
    """The embedded stack did not come up; its own reason is in the message."""

    code = "stack-failed"


class StackTimeout(RegrowError):
    """The embedded stack was neither ready nor at an end when the time was up."""

    code = "stack-timeout"


class UsageError(RegrowError):
    """Options or arguments that do not go together."""

    code = "usage"


class ProcessFailed(RegrowError):
    """The process that was asked for failed, or was cancelled."""

    code = "process-failed"

    @classmethod
    def of(cls, record: m.EventRecord) -> ProcessFailed:
        """The error that a final event tells."""
        if record.type == "cancelled":
            return ProcessCancelled(f"The process {record.pid} was cancelled")
        data: dict[str, Any] = msgspec.json.decode(record.data)
        error = "" if data["error"] in ("", "ExecutionFailed", data["reason"]) else f"{data['error']}: "
        return cls(f"The process {record.pid} failed: {error}{data['reason']}", hint=f"regrow status {record.pid}")


class ProcessCancelled(ProcessFailed):
    """The process that was asked for was cancelled."""

    code = "process-cancelled"


class ProcessStuck(RegrowError):
    """A process is parked: it diverged, hung, took hosts down, or its output was refused."""

    code = "process-stuck"

    def __init__(self, pid: str, stuck: m.Stuck) -> None:
        reason = stuck.reason.split(" (undo")[0]
        super().__init__(
            f"The process {pid} is parked at input {stuck.seq}: {reason}",
            hint=f"look into it: regrow replay {pid} --pdb; then: regrow resume {pid}",
        )


class NoHost(RegrowError):
    """No host of the app lives that could do it."""

    code = "no-host"


class TimeUp(RegrowError):
    """What was waited for did not happen in time."""

    code = "time-up"


class CopyFailed(RegrowError):
    """A file of this computer cannot be read or written."""

    code = "copy-failed"


class Elsewhere(RegrowError):
    """This can only be done on another computer."""

    code = "elsewhere"


class OutputLost(RegrowError):
    """Standard output or standard error cannot be written to."""

    code = "output-lost"


class Reported(RegrowError):
    """An error of another process that worked for this one.

    Attributes:
        code: that of the original error.
    """

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code or "regrow-error"  # pyright: ignore[reportAttributeAccessIssue] - of the instance, on purpose


class NameTaken(RegrowError):
    """Another running process has the name."""

    code = "name-taken"
