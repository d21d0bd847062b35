"""What an outcome is to whoever waits for it."""

from __future__ import annotations

from typing import Any

from regrow_protocol.messages import Failure

from .errors import EventNotSeen, execution_failed
from .failures import failure_in
from .handle import EventFeed


def last_failure(feed: EventFeed) -> Failure | None:
    """The last failure that a feed tells; a restart tells that of the incarnation before."""
    for event in reversed(feed.events):
        if event.type in ("failed", "restarted") and event.data is not None:
            return failure_in(event.data)
    return None


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
