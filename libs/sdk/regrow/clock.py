"""Real time, and in tests time that can be skipped."""

from __future__ import annotations

import time


class Clock:
    """Wall-clock time.

    Attributes:
        skipped: seconds that were skipped.
        skipping: timers do not wait for real time: `regrow.testing` moves the clock when nothing else is left to do.
    """

    def __init__(self, *, skipping: bool = False) -> None:
        self.skipped = 0.0
        self.skipping = skipping

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time() + self.skipped
