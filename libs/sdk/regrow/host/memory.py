"""Gives back the memory of processes that have left it.

A process is freed when it leaves, but for some nets of references that only the cycle collector frees (a `gather` that
was under way), and the C library keeps what it may need again. In a host that has nothing to do neither would run; in a
busy one a collection for every few hundred processes cost more than the processes.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable

OFTEN = 5_000
"""Processes that leave memory between two collections, at least, while others come."""
QUIET = 2.0
"""Seconds in which none has left, after which there is a collection for fewer."""


class Memory:
    """Of one host.

    Args:
        residents: how many processes are in memory: a collection looks at them too, so it must be worth that.
    """

    def __init__(self, residents: Callable[[], int]) -> None:
        self._residents = residents
        self._left = 0
        self._at = 0.0
        self._trim = _malloc_trim()

    def left(self, count: int) -> None:
        """So many processes have left memory; to be called now and then, also with 0."""
        now = time.monotonic()
        if count:
            self._left += count
            self._at = now
        if not self._left:
            return
        residents = self._residents()
        is_quiet = now - self._at > QUIET and 10 * self._left >= residents
        if is_quiet or self._left >= max(OFTEN, residents // 4):
            self._left = 0
            gc.collect()
            self._trim()


def _malloc_trim() -> Callable[[], object]:
    """What gives freed memory back to the system, with glibc."""
    if sys.platform != "linux":
        return lambda: None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return lambda: None
    return lambda: trim(0)
