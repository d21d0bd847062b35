"""What a piece of work costs, and whether other programs of the machine disturbed it.

CPU time tells more than seconds on a machine that others use too, but not all: what shares a core or its caches with
others takes up to two or three times as much of it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Protocol

import psutil

UNDISTURBED = 0.2
"""Work counts as undisturbed while other programs use less than this, in cores."""
REST = 0.3


class Measured(Protocol):
    """What a meter reads."""

    def cpu_times(self) -> dict[str, float]:
        """Seconds of CPU so far by program."""
        ...

    async def stream_sizes(self) -> dict[str, tuple[int, int]]:
        """Messages and bytes by stream."""
        ...


class Meter:
    """What a piece of work costs; to be used with `async with` around it.

    Attributes:
        seconds: that it took.
        cpu: seconds of CPU by program: `client`, `host`, `nats`, `supervisor`.
        messages, size: by stream, what it added.
        others: cores that all other programs of the machine used meanwhile, on average.
    """

    def __init__(self, stack: Measured) -> None:
        self._stack = stack
        self.seconds = 0.0
        self.cpu: dict[str, float] = {}
        self.messages: dict[str, int] = {}
        self.size: dict[str, int] = {}
        self.others = 0.0

    async def __aenter__(self) -> Meter:
        gc.collect()
        gc.freeze()
        self._streams = await self._stack.stream_sizes()
        self._cpu = self._stack.cpu_times()
        self._busy = busy_time()
        self._began = time.perf_counter()
        return self

    async def __aexit__(self, *failure: object) -> None:
        self.seconds = time.perf_counter() - self._began
        if failure[0] is not None:
            return
        cpu, busy = self._stack.cpu_times(), busy_time()
        self.cpu = {role: spent - self._cpu.get(role, 0.0) for role, spent in cpu.items()}
        self.others = max(0.0, busy - self._busy - sum(self.cpu.values())) / self.seconds
        for name, (messages, size) in (await self._stack.stream_sizes()).items():
            before = self._streams.get(name, (0, 0))
            self.messages[name] = messages - before[0]
            self.size[name] = size - before[1]

    def cost(self, operations: int) -> dict[str, float]:
        """Per operation: CPU milliseconds by program, messages and bytes of stream."""
        out = {role: spent / operations * 1000 for role, spent in self.cpu.items()}
        out["messages"] = sum(self.messages.values()) / operations
        out["bytes"] = sum(self.size.values()) / operations
        return out


class Patience:
    """How long a run may wait, in all, for other programs of the machine to rest."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._spent = 0.0

    @property
    def left(self) -> bool:
        """There is some left; time passes only in `quiet`, and each call takes some."""
        return self._spent < self._seconds

    async def quiet(self) -> None:
        """Wait until the machine has been at rest for a moment."""
        while self.left:
            before = busy_time()
            await asyncio.sleep(REST)
            self._spent += REST
            if (busy_time() - before) / REST < UNDISTURBED:
                return


def busy_time() -> float:
    """Seconds of CPU that the machine has used so far, on all cores."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def cpu_time(number: int) -> float:
    try:
        times = psutil.Process(number).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system
