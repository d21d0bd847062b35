"""How a publisher groups: single publishes or one atomic batch, whichever has proved faster for as many messages.

A batch costs a fixed time (about 2.2 ms with nats-server 2.15, whatever the sync setting) and little for each message;
singles cost nothing but their own time, which is the disk's sync with `safe` (0.2 ms) and next to nothing with `fast`
(0.015 ms). So batches pay from about 13 messages with `safe`, and hardly ever with `fast`. Both costs are learnt from
the flushes themselves.
"""

from __future__ import annotations

SINGLE, BATCH = 0.000_18, 0.002_2
"""Seconds: per message sent singly, per batch; where learning starts."""
BATCHED = 0.000_015
"""Seconds per message inside a batch."""
LEARN_LESS, LEARN_MORE = 0.3, 0.03
"""How much one flush counts that took less, or more, than expected: a busy machine's hiccups shall not count much."""
STILL_LEARNING = 0.8
FORGET = 0.01
"""With each flush of singles what is known about batches goes back a little to where learning started."""
SAMPLE = 4
"""A flush of fewer singles says more about the round trip than about the cost of a message."""
PROBE_EVERY, PROBE = 64, 8
"""After so many batches, one flush of a few singles, to notice when those have become cheap."""


class Pace:
    """The costs of one stream's publishes, and the choice that follows from them."""

    def __init__(self) -> None:
        self.single = SINGLE
        self.batch = BATCH
        self._batches = PROBE_EVERY - 2

    def limit(self, most: int) -> int:
        """How many messages the next flush may take."""
        return PROBE if self._batches >= PROBE_EVERY else most

    def prefers_batch(self, count: int) -> bool:
        """Is one batch of `count` messages faster than `count` singles?"""
        if self._batches >= PROBE_EVERY:
            return False
        return count * self.single > self.batch + count * BATCHED

    def took(self, count: int, seconds: float, *, batch: bool) -> None:
        """A flush of `count` messages went through at the first attempt within `seconds`."""
        if batch:
            self._batches += 1
            self.batch = _learn(self.batch, max(seconds - count * BATCHED, 0.0))
        elif count >= SAMPLE:
            # as long as singles turn out to be cheaper than was known, the next flush tries them too
            self._batches = PROBE_EVERY if seconds / count < self.single * STILL_LEARNING else 0
            self.single = _learn(self.single, seconds / count)
            self.batch += FORGET * (BATCH - self.batch)


def _learn(known: float, seen: float) -> float:
    return known + (LEARN_LESS if seen < known else LEARN_MORE) * (seen - known)
