"""What is shown on standard error while a tree runs: a line per event, on a terminal with progress below them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from regrow_protocol.messages import EventRecord

from .listing import STYLES, clock, duration, short
from .processes import ENDS

if TYPE_CHECKING:
    from rich.progress import Progress

_DATA = 300
"""Characters of an event's data that are shown."""


class Tree:
    """How many processes of a tree run and have ended, by their first and last events in any order.

    Args:
        root: pid of its root.
        known: status by pid, as it was listed before.
    """

    def __init__(self, root: str, known: Mapping[str, str] | None = None) -> None:
        self.root = root
        self._ours: set[str] = {root, *(known or {})}
        self._ended = {pid: status for pid, status in (known or {}).items() if status in ENDS}

    def take(self, record: EventRecord) -> bool:
        """Count an event of the app; whether it belongs to the tree."""
        meta = record.meta
        if record.pid not in self._ours and (meta is None or meta.root != self.root):
            return False
        self._ours.add(record.pid)
        if record.final:
            self._ended.setdefault(record.pid, record.type)
        return True

    @property
    def running(self) -> int:
        """Processes that have begun and not ended."""
        return len(self._ours) - len(self._ended)

    def counts(self) -> str:
        """For people."""
        ends = list(self._ended.values())
        counted = {"running": self.running, **{end: ends.count(end) for end in ENDS}}
        return ", ".join(f"{count} {name}" for name, count in counted.items() if count)


class View(AbstractContextManager["View"]):
    """Shows nothing: for `--quiet`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""

    def began(self, title: str) -> None:
        """The tree is under way."""

    def event(self, record: EventRecord) -> None:
        """An event of the root."""

    def progress(self, tree: Tree) -> None:
        """The counts have changed."""

    def note(self, text: str) -> None:
        """Something that is no event."""


class PlainView(View):
    """A line per event, for logs and pipes."""

    def began(self, title: str) -> None:
        self.note(title)

    def event(self, record: EventRecord) -> None:
        self.note(event_line(record))

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class TerminalView(View):
    """Events scroll by; below them stands what runs."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        counts, title = TextColumn("{task.fields[counts]}"), TextColumn("{task.description}")
        columns = (SpinnerColumn(), TimeElapsedColumn(), counts, title)  # what does not fit is cut off the end
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=8)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def began(self, title: str) -> None:
        assert self._progress is not None
        if self._task is None:
            self._task = self._progress.add_task(title, total=None, counts="")
        else:
            self._progress.update(self._task, description=title)

    def event(self, record: EventRecord) -> None:
        from rich.text import Text

        assert self._progress is not None
        style = STYLES.get(record.type, "") if record.source is None else "dim"
        self._progress.console.print(Text(event_line(record), style), soft_wrap=True)

    def progress(self, tree: Tree) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, counts=tree.counts())

    def note(self, text: str) -> None:
        from rich.text import Text

        assert self._progress is not None
        self._progress.console.print(Text(text, "bold"), soft_wrap=True)


def view_for(*, quiet: bool) -> View:
    """The view that fits where standard error goes."""
    return View() if quiet else TerminalView() if sys.stderr.isatty() else PlainView()


def event_line(record: EventRecord, limit: int = _DATA) -> str:
    """An event as a line: time, source, type, data."""
    source = f"{record.source}: " if record.source else ""
    data = "" if bytes(record.data) == b"null" else "  " + short(record.data, limit)
    return f"{clock(record.time)}  {source}{record.type}{data}"


def summary(record: EventRecord, tree: Tree) -> str:
    """The last line about a tree."""
    span = duration(record.time - record.meta.started) if record.meta is not None and record.meta.started else ""
    return f"{record.pid} {record.type}" + (f" after {span}" if span else "") + f" ({tree.counts()})"
