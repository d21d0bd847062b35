"""How a publisher groups: single publishes or one atomic batch, whichever is faster for as many messages.

`n` singles take the time of one, and for each further message the disk's sync with `safe` (0.2 ms) or next to nothing
with `fast` (0.02 ms). A batch takes a fixed time and little for each message; the fixed time is 0.7 to 1 ms where the
server stages batches in memory (`staging`), 3 to 6 ms where it does not. So batches pay from 5 messages with `safe` on
the embedded server, from 15 or 20 on another one, and hardly ever with `fast`. (docs/benchmarks.md has the curves.)

All of it is learnt from the flushes themselves: each cost is the least of its last samples, since what else a machine
and this program do meanwhile only ever adds to it. What is not preferred is tried now and then, ever more rarely.
"""

from __future__ import annotations

from collections import deque

ONE, MORE, BATCH = 0.000_2, 0.000_19, 0.000_9
"""Seconds: of one single, of each further one, of a batch without its messages; where learning starts."""
BATCHED = 0.000_012
"""Seconds per message inside a batch."""
LEAST = 0.000_002
SAMPLES = 16
"""So many of the last samples count."""
SAMPLE = 4
"""A flush of fewer messages says nothing about the cost of further ones."""
PROBE = 8
"""So many singles are tried at most where batches are preferred."""
RARELY = 256
"""Flushes of `SAMPLE` or more from one trial of the other way to the next, in the long run."""


class _Cost:
    """The least of the last samples."""

    def __init__(self, guess: float) -> None:
        self._samples: deque[float] = deque([guess], SAMPLES)
        self.value = guess

    def saw(self, seconds: float) -> None:
        self._samples.append(seconds)
        self.value = min(self._samples)


class Pace:
    """The costs of one stream's publishes, and the choice that follows from them."""

    def __init__(self) -> None:
        self._one = _Cost(ONE)
        self._more = _Cost(MORE)
        self._batch = _Cost(BATCH)
        self._flushes = 0
        self._every = 1

    def limit(self, most: int) -> int:
        """How many messages the next flush may take."""
        return PROBE if self._trial and self._batch_is_faster(most) else most

    def prefers_batch(self, count: int) -> bool:
        """Shall `count` messages go as one batch?"""
        faster = self._batch_is_faster(count)
        return not faster if self._trial and count >= SAMPLE else faster

    def took(self, count: int, seconds: float, *, batch: bool) -> None:
        """A flush of `count` messages went through at the first attempt within `seconds`."""
        if batch:
            self._batch.saw(max(seconds - count * BATCHED, LEAST))
        elif count == 1:
            self._one.saw(seconds)
        if count < SAMPLE:
            return
        if not batch:
            self._more.saw(max((seconds - self._one.value) / (count - 1), LEAST))
        if self._trial:
            self._flushes = 0
            self._every = min(2 * self._every, RARELY)
        else:
            self._flushes += 1

    @property
    def _trial(self) -> bool:
        """It is time for a flush of the other kind."""
        return self._flushes >= self._every

    def _batch_is_faster(self, count: int) -> bool:
        return self._one.value + (count - 1) * self._more.value > self._batch.value + count * BATCHED
