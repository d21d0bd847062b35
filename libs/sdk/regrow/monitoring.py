"""`monitor` and `link`: hearing of the end of another process, and sharing it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from . import scope
from .failures import ProcessFailure, failure_in
from .handle import Event, ProcessHandle


@dataclass(frozen=True)
class Down:
    """A monitored process has ended.

    Attributes:
        pid: of the process.
        status: `done`, `failed` or `cancelled`.
        result: of one that is done.
        failure: of one that failed.
    """

    pid: str
    status: str
    result: Any = None
    failure: ProcessFailure | None = None


class Monitor:
    """Waits for the end of a process: `down = await monitor(handle)`. It takes no part in that end."""

    def __init__(self, pid: str) -> None:
        self.pid = pid
        self._future: asyncio.Future[Down] = asyncio.get_running_loop().create_future()
        self._stop = scope.current().watch(pid).subscribe(self._event)

    def _event(self, event: Event) -> None:
        if event.final and not self._future.done():
            failure = ProcessFailure.of(failure_in(event.data), self.pid) if event.type == "failed" else None
            result = event.data if event.type == "done" else None
            self._future.set_result(Down(self.pid, event.type, result, failure))

    def __await__(self) -> Generator[Any, Any, Down]:
        return asyncio.shield(self._future).__await__()

    @property
    def down(self) -> bool:
        """Whether it has ended, as far as is known here."""
        return self._future.done()

    def demonitor(self) -> None:
        """Hear no more of it."""
        self._stop()
        self._future.cancel()


def monitor(process: ProcessHandle | str) -> Monitor:
    """Hear of the end of a process, once, however it ends; a restart under supervision is no end.

    Of one that never was, or whose history is gone, it says at once that it failed, with `ProcessNotFound`.

    Args:
        process: its handle, or its pid; of this app.
    """
    return Monitor(process if isinstance(process, str) else process.pid)


def link(process: ProcessHandle) -> None:
    """Tie this process and another one together: if either fails or is cancelled, so does the other one fail.

    With `@agent_process(trap_exits=True)` this process gets a signal instead: `await receive("exit")` gives `pid`,
    `status` and `reason`. A process that ends well ends no other.
    """
    scope.current().link(process.pid)


def unlink(process: ProcessHandle) -> None:
    """Undo `link`, whichever side made it."""
    scope.current().unlink(process.pid)
