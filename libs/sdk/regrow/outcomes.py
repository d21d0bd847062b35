"""How a process's failure stands in its `failed` event, and what an outcome is to whoever waits for it."""

from __future__ import annotations

from typing import Any

from regrow_protocol.messages import Failure

from .errors import EventNotSeen, execution_failed
from .handle import EventFeed


def failure_data(failure: Failure) -> dict[str, Any]:
    """The data of a `failed` event."""
    return {
        "reason": failure.message,
        "error": failure.error,
        "code": failure.code,
        "retryable": failure.retryable,
        **({"snapshots": failure.snapshots} if failure.snapshots else {}),
    }


def failure_in(data: dict[str, Any]) -> Failure:
    """What the data of a `failed` event tells."""
    return Failure(data["error"], data["reason"], data["code"], data["retryable"], data.get("snapshots", {}))


def outcome_of(feed: EventFeed, pid: str) -> Any:
    """The result that a finished feed tells, or its failure raised."""
    if not feed.events or not feed.events[-1].final:
        raise EventNotSeen(f"The events of process {pid} ended without an outcome")
    last = feed.events[-1]
    if last.type == "done":
        return last.data
    if last.type == "failed":
        raise execution_failed(failure_in(last.data), pid)
    raise execution_failed(Failure("CancelledError", "cancelled", "cancelled"), pid)
