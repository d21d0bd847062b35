"""Signals that have come to a process, in their order by name, until `receive` takes them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from regrow_protocol import messages as m

if TYPE_CHECKING:
    from .process import Process


class Mailbox:
    """Of one incarnation; what it has not read is the next one's."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._unread: dict[str, deque[tuple[m.Signal, int]]] = {}
        self._readers: dict[str, deque[Any]] = {}

    def put(self, signal: m.Signal, seq: int) -> None:
        """A signal has come, as input `seq`."""
        if self._process.ended:
            return
        readers = self._readers.get(signal.name)
        if readers:
            reader = readers.popleft()
            if not readers:
                del self._readers[signal.name]
            reader.settle(signal.data, None)
        elif self._process.limits.waiting() is None:
            self._unread.setdefault(signal.name, deque()).append((signal, seq))

    def read(self, name: str, reader: Any) -> None:
        """Give the next signal of that name to `reader`, as the value that it is settled with."""
        unread = self._unread.get(name)
        if unread:
            signal, _ = unread.popleft()
            if not unread:
                del self._unread[name]
            reader.settle(signal.data, None)
        else:
            self._readers.setdefault(name, deque()).append(reader)

    def leave(self, name: str, reader: Any) -> None:
        """`reader` waits no more."""
        readers = self._readers.get(name)
        if readers is not None and reader in readers:
            readers.remove(reader)
            if not readers:
                del self._readers[name]

    @property
    def unread(self) -> list[tuple[m.Request, int]]:
        """Signals that nobody has read, with their inputs."""
        return [held for signals in self._unread.values() for held in signals]

    @property
    def awaited(self) -> list[str]:
        """Names that somebody waits for."""
        return list(self._readers)

    def forget(self) -> None:
        """Its process has left memory."""
        self._unread.clear()
        self._readers.clear()
        del self._process
