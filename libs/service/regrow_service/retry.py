"""When to try again: exponential back-off with jitter, and a last attempt."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Retry:
    """How often and when a message is tried.

    Jitter takes away up to half of a delay, so that what failed together does not come back together ("equal jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

    Attributes:
        attempts: how often in all; after the last one the message becomes a dead letter.
        first: seconds before the second attempt.
        factor: by which each delay is longer than the last.
        longest: seconds that a delay may have.
    """

    attempts: int = 6
    first: float = 0.1
    factor: float = 2.0
    longest: float = 30.0

    def delay(self, attempt: int) -> float:
        """Seconds to wait after attempt number `attempt` (from 1) failed."""
        whole = min(self.longest, self.first * self.factor ** min(attempt - 1, 64))
        return whole * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, protects nothing
