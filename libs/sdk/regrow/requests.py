"""Requests of each sender are taken in its order, each once.

A process numbers what it sends to another (`k`); a repeat is dropped, one that came too early is held. Clients'
requests may overtake each other, so of each client a window of numbers is remembered.
"""

from __future__ import annotations

from regrow_protocol import messages as m

WINDOW = 4096
"""How far a client's requests may overtake each other."""

CLIENTS = 4096
"""Clients that are remembered; of more, the one whose last request is longest ago is forgotten."""


class Requests:
    """What a process has taken of each sender.

    Attributes:
        marks: number of the last request by sender: `pid.incarnation`, or a client's id.
    """

    def __init__(self) -> None:
        self.marks: dict[str, int] = {}
        self._early: dict[str, dict[int, tuple[m.Request, int]]] = {}
        self._windows: dict[str, set[int]] = {}

    def due(self, message: m.Request, seq: int) -> list[tuple[m.Request, int]]:
        """What is to be taken now that `message` has come, as input `seq`: requests with their inputs."""
        if message.by is None:
            return [] if self._seen(getattr(message, "client", ""), message.k) else [(message, seq)]
        sender = f"{message.by.pid}.{message.by.incarnation}"
        mark = self.marks.get(sender, 0)
        if message.k <= mark:
            return []
        if message.k > mark + 1:
            self._early.setdefault(sender, {})[message.k] = (message, seq)
            return []
        taken = [(message, seq)]
        mark += 1
        if early := self._early.get(sender):
            while (following := early.pop(mark + 1, None)) is not None:
                taken.append(following)
                mark += 1
            if not early:
                del self._early[sender]
        self.marks[sender] = mark
        return taken

    def _seen(self, client: str, k: int) -> bool:
        window = self._windows.pop(client, None)
        if window is None:
            window = set()
            if len(self._windows) >= CLIENTS:
                forgotten = next(iter(self._windows))
                del self._windows[forgotten]
                self.marks.pop(forgotten, None)
        self._windows[client] = window
        top = self.marks.get(client, 0)
        if k in window or k <= top - WINDOW:
            return True
        window.add(k)
        if k > top:
            self.marks[client] = top = k
        if len(window) > 2 * WINDOW:
            self._windows[client] = {n for n in window if n > top - WINDOW}
        return False

    def again(self, message: m.Request, seq: int) -> list[tuple[m.Request, int]]:
        """What is to be taken of a request that the last incarnation left open."""
        if message.by is None:
            self._seen(getattr(message, "client", ""), message.k)
        elif message.k > self.marks.get(f"{message.by.pid}.{message.by.incarnation}", 0):
            return self.due(message, seq)
        return [(message, seq)]

    @property
    def early(self) -> list[tuple[m.Request, int]]:
        """Requests that are held because an earlier one has not come."""
        return [held for early in self._early.values() for held in early.values()]

    def next_incarnation(self, marks: dict[str, int]) -> None:
        """Begin with what the last incarnation hands on."""
        self.clear()
        self.marks.update(marks)

    def clear(self) -> None:
        """Know nobody."""
        self.marks.clear()
        self._early.clear()
        self._windows.clear()
