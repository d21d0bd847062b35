"""Who is alive, as far as can be known: the judgement, without any I/O.

A host lives while its key stands. A key that was deleted says at once that its host is gone. A key that expired, or
that is not there at all, says so only when the bucket was *available* for a whole time to live before: a server that
was down, paused or unreachable lets keys expire whose hosts are well. Available since means: since then every probe was
answered in time and the connection was never lost. Until then the host is in doubt: it keeps what it owns.

Times are seconds of one clock, given by the caller; it must not stop while the machine sleeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from regrow_protocol.messages import HostRecord

Verdict = Literal["alive", "doubtful", "unknown", "dead"]
MAX_REMEMBERED = 10_000


class Liveness:
    """The hosts of one bucket.

    Args:
        ttl: time to live of a host's key, seconds.

    Attributes:
        present: by key, the hosts whose keys stand.
        doubtful: by key, those whose keys expired, about whom it is too early to judge.
    """

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self.present: dict[str, HostRecord] = {}
        self.doubtful: dict[str, HostRecord] = {}
        self._dead: dict[str, None] = {}
        self._since: float | None = None
        self._answered = float("-inf")

    def probed(self, answered: float | None) -> None:
        """A probe was answered at `answered` (None: it failed). To be called at least every `ttl` / 4."""
        if answered is None:
            self.lost()
            return
        if self._since is None or answered - max(self._answered, self._since) > self._slack:
            self._since = answered
        self._answered = answered

    def lost(self) -> None:
        """The connection is, or was, gone."""
        self._since = None

    def available(self, now: float) -> bool:
        """The bucket was available for a whole time to live."""
        return self._since is not None and now - self._since >= self.ttl and now - self._answered <= self._slack

    def put(self, key: str, record: HostRecord) -> HostRecord | None:
        """The key stands. Returns its record as it was known before, None for a new host."""
        before = self.present.get(key) or self.doubtful.pop(key, None)
        self._dead.pop(key, None)
        self.present[key] = record
        return before

    def gone(self, key: str, *, deleted: bool, now: float) -> HostRecord | None:
        """The key stands no more. Returns the record of a host that is dead by that, None where nothing is decided."""
        record = self.present.pop(key, None) or self.doubtful.pop(key, None)
        if deleted or self.available(now):
            self._remember(key)
            return record
        if record is not None:
            self.doubtful[key] = record
        return None

    def judge(self, now: float) -> list[tuple[str, HostRecord]]:
        """The doubtful ones that are dead by now; they are doubtful no longer."""
        if not self.doubtful or not self.available(now):
            return []
        dead = list(self.doubtful.items())
        self.doubtful.clear()
        for key, _ in dead:
            self._remember(key)
        return dead

    def verdict(self, key: str, now: float) -> Verdict:
        """What is known of a host; `unknown`: its key was not seen although it could have been."""
        if key in self.present:
            return "alive"
        if key in self._dead:
            return "dead"
        return "doubtful" if key in self.doubtful or not self.available(now) else "unknown"

    def living(self) -> Iterator[tuple[str, HostRecord]]:
        """Those alive or in doubt."""
        yield from self.present.items()
        yield from self.doubtful.items()

    @property
    def _slack(self) -> float:
        # A stall of half the time to live cannot alone make a key expire that is renewed every fifth of it.
        return self.ttl / 2

    def _remember(self, key: str) -> None:
        self._dead[key] = None
        if len(self._dead) > MAX_REMEMBERED:
            del self._dead[next(iter(self._dead))]
