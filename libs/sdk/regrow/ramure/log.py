"""`Log` as ramure has it: numbered, timed entries, in memory and as lines of a JSON file."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from .stream import Event, Stream


@dataclass(frozen=True, kw_only=True)
class LogEntry(Event):
    """An event as it was logged.

    Attributes:
        seq: its number, from 1.
        ts: seconds since 1970.
        origin: `server`, or `agent`.
    """

    seq: int
    ts: float
    origin: str

    def to_dict(self) -> dict[str, Any]:
        """Its fields."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def to_json(self) -> str:
        """One line; what JSON cannot say is told by its `repr`."""
        return msgspec.json.encode(self.to_dict(), enc_hook=repr).decode()


class Log:
    """Entries, with one writer.

    Args:
        path: of the file that they are written to; None: they are kept in memory only.

    Attributes:
        stream: of the entries.
        path: of the file, or None.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.stream = Stream()
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def emit(
        self, kind: str, data: Any = None, *, origin: str = "server", source: str | None = None
    ) -> LogEntry | None:
        """Append an entry; None when the log is closed."""
        if self.stream.closed:
            return None
        entry = LogEntry(type=kind, data=data, source=source, seq=self.last_seq + 1, ts=time.time(), origin=origin)
        self.stream.append(entry)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(entry.to_json() + "\n")
        return entry

    def after(self, seq: int) -> list[LogEntry]:
        """The entries after number `seq`."""
        return [entry for entry in self.stream.snapshot()[max(0, seq) :] if isinstance(entry, LogEntry)]

    @property
    def last_seq(self) -> int:
        """Number of the last entry; 0 when there is none."""
        return len(self.stream)

    def close(self) -> None:
        """No entry follows."""
        self.stream.close()

    def __len__(self) -> int:
        return len(self.stream)
