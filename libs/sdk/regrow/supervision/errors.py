"""Errors of supervision."""

from __future__ import annotations

from dataclasses import dataclass

from regrow_protocol.errors import RegrowError


@dataclass(frozen=True)
class ChildFailure:
    """Why a child had to be started again.

    Attributes:
        id: of the child in its group.
        pid: of the process.
        incarnation: that ended.
        status: `failed`, `done` or `cancelled`.
        reason, error, code: as in its `failed` event.
        time: the process's clock, seconds since 1970.
    """

    id: str
    pid: str
    incarnation: int
    status: str
    reason: str
    error: str
    code: str
    time: float


class SupervisionError(RegrowError):
    """A group of children that cannot be as it was asked for; each message names the child and what is possible."""

    code = "supervision"


class RestartIntensityExceeded(RegrowError):
    """Children of a group had to be started again more often than it allows; all of them were stopped.

    Attributes:
        failures: those within the period, the last one being one too many.
    """

    code = "restart-intensity-exceeded"

    def __init__(self, message: str, *, failures: tuple[ChildFailure, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.failures = failures
