"""How far a partition is done: every input up to the floor is applied and its outputs are acknowledged."""

from __future__ import annotations

import heapq


class Floor:
    """Counts what is open of each input. Whatever opens an input closes it once, or its partition ends first.

    Attributes:
        read: every message of the partition up to this sequence has been routed.
    """

    def __init__(self, floor: int) -> None:
        self.read = floor
        self._open: dict[int, int] = {}
        self._heap: list[int] = []

    def open(self, seq: int) -> None:
        """One more thing of input `seq` is under way."""
        if seq in self._open:
            self._open[seq] += 1
        else:
            self._open[seq] = 1
            heapq.heappush(self._heap, seq)

    def close(self, seq: int) -> None:
        """One thing of input `seq` is done. KeyError when none is under way."""
        left = self._open[seq] - 1
        if left:
            self._open[seq] = left
        else:
            del self._open[seq]

    @property
    def pending(self) -> int:
        """How many inputs are open."""
        return len(self._open)

    @property
    def oldest(self) -> int | None:
        """The first input that is open."""
        heap = self._heap
        while heap and heap[0] not in self._open:
            heapq.heappop(heap)
        return heap[0] if heap else None

    @property
    def value(self) -> int:
        """The floor."""
        oldest = self.oldest
        return self.read if oldest is None else min(self.read, oldest - 1)
