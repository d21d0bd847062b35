"""`Runtime`: what the processes of one tree share in this program, and the log that they write."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .log import Log
from .stream import Event

if TYPE_CHECKING:
    from .local import Local


class Runtime:
    """One run of a root process, as `current_runtime()` gives it.

    Attributes:
        execution_id: pid of the root: what `regrow status`, `send` and `connect` take.
        agents: those that live, of the whole tree, by name.
        log: of the run: each event of each of its processes with its `pid` and process type, in
            `<log_dir>/<execution_id>/_runtime.jsonl` where a `log_dir` was given.
        log_dir_root: that folder, or None.
        started_at: seconds since 1970.
        root_scope: the root.
    """

    def __init__(self, execution_id: str, *, log_dir: Path | str | None = None) -> None:
        self.execution_id = execution_id
        self.agents: dict[str, Any] = {}
        self.log_dir_root = Path(log_dir) if log_dir else None
        self.log = Log(self.folder / "_runtime.jsonl" if self.folder is not None else None)
        self.started_at = time.time()
        self.root_scope: Local | None = None
        self.log.emit("execution_started", {"execution_id": execution_id, "started_at": self.started_at})

    @property
    def folder(self) -> Path | None:
        """Where this run logs."""
        return self.log_dir_root / self.execution_id if self.log_dir_root is not None else None

    def note(self, local: Local, event: Event) -> None:
        """Log an event of a process."""
        told = {"pid": local.pid, "process": local.type.name, "data": event.data}
        self.log.emit(event.type, told, source=event.source)

    def close(self) -> None:
        """The run is over."""
        self.log.emit("execution_ended", {"execution_id": self.execution_id})
        self.log.close()
