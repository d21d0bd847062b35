"""Which hosts live: follows `regrow_hosts`, whose keys `<app>.<host>` their hosts renew, and probes that it is
available.

Who wants to know subscribes and is told of every change: a host has come, has changed, has died. The judgement is
`Liveness`; here are the watch, the probes and the clock. The clock runs on while the machine sleeps: after a laptop's
sleep the keys have expired at once, and that must look like the outage that it was.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec
from regrow_protocol import messages
from regrow_protocol.bus import Bus, Entry
from regrow_protocol.errors import RegrowError
from regrow_protocol.messages import HostRecord
from regrow_protocol.subjects import token, untoken
from regrow_service.logs import get_logger
from regrow_service.metrics import Metrics

from .liveness import Liveness
from .measures import HOSTS

BUCKET = "regrow_hosts"

News = Literal["joined", "changed", "died", "judged"]
"""`judged`: enough time has passed to judge owners whose keys are not there."""


class Group(NamedTuple):
    """The hosts of one build of an app share its partitions."""

    app: str
    build: str


class Change(NamedTuple):
    """What subscribers are told.

    Attributes:
        news: what happened.
        host: to whom; None with `judged`.
        reason: of a death: `deleted` or `expired`.
    """

    news: News
    host: HostRecord | None = None
    reason: str = ""


Listener = Callable[[Change], None]


def clock() -> float:
    """Seconds that pass also while the machine sleeps."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC)  # it does there, unlike time.monotonic()
    return time.monotonic()


class Hosts:
    """The living hosts of all apps. `run` follows them.

    Args:
        bus: connected; the bucket exists.
        ttl: seconds that a host's key lives without being renewed.
        metrics: where to count.
    """

    def __init__(self, bus: Bus, ttl: float, metrics: Metrics) -> None:
        self.ttl = ttl
        self.current = asyncio.Event()
        self._bus = bus
        self._liveness = Liveness(ttl)
        self._listeners: list[Listener] = []
        self._connection = bus.connected_since
        self._answers = True
        self._was_available = False
        self._gauge = metrics[HOSTS]
        self._log = get_logger("hosts")

    # what others ask --------------------------------------------------------------------------------------------------

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` at every change, from a plain callback; it must not raise."""
        self._listeners.append(listener)

    def living(self) -> list[HostRecord]:
        """Those alive or in doubt."""
        return [record for _, record in self._liveness.living()]

    def of(self, group: Group) -> list[HostRecord]:
        """Those of one build."""
        return [host for host in self.living() if (host.app, host.build) == group]

    def alive(self, host: HostRecord) -> bool:
        """Its key stands."""
        return self._key(host.app, host.host) in self._liveness.present

    def dead(self, app: str, host: str, since: float) -> bool:
        """Whether a host that is known as an owner since `since` (by `clock`) is dead for sure."""
        now = self._now()
        match self._liveness.verdict(self._key(app, host), now):
            case "dead":
                return True
            case "unknown":  # its key may still be on its way here, behind the news that it owns something
                return now - since >= self.ttl
            case _:
                return False

    @property
    def available(self) -> bool:
        """The bucket was reachable for so long that a host without a key is dead."""
        return self._liveness.available(self._now())

    # following --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the hosts, for ever; may be cancelled at any moment."""
        watcher = self._bus.kv(BUCKET).watch(">", self._entry)
        try:
            await watcher.current
            self.current.set()
            while True:
                await self._probe()
                self._judge()
                await asyncio.sleep(self.ttl / 10)
        finally:
            await watcher.stop()

    async def _probe(self) -> None:
        """Ask the leader of the bucket for a key that is never there."""
        asked = self._connection
        try:
            async with asyncio.timeout(self.ttl / 2):
                await self._bus.kv(BUCKET).get("probe")
        except (TimeoutError, RegrowError) as error:
            self._liveness.probed(None)
            if self._answers:
                self._log.warning("the hosts' bucket does not answer: nobody is declared dead", reason=str(error))
            self._answers = False
            return
        self._answers = True
        now = self._now()
        if asked == self._connection:
            self._liveness.probed(now)

    def _now(self) -> float:
        if not self._bus.connected or self._bus.connected_since != self._connection:
            self._connection = self._bus.connected_since
            self._liveness.lost()
        return clock()

    def _entry(self, entry: Entry) -> None:
        app, _, name = entry.key.partition(".")
        if not name:
            self._log.warning("a key that is no host's", key=entry.key)
        elif entry.operation == "put":
            self._put(entry)
        else:
            deleted = entry.operation != "expired"
            host = self._liveness.gone(entry.key, deleted=deleted, now=self._now())
            if host is not None:
                self._tell(Change("died", host, "deleted" if deleted else "expired"))
            elif entry.key in self._liveness.doubtful:
                self._log.info("a host's key expired after an outage: in doubt", app=untoken(app), host=name)

    def _put(self, entry: Entry) -> None:
        try:
            host = messages.decode(entry.value, HostRecord)
        except msgspec.MsgspecError as error:
            self._log.warning("a host's record does not decode", key=entry.key, reason=str(error))
            return
        if entry.key != self._key(host.app, host.host):
            self._log.warning("a host's record stands under another's key", key=entry.key, app=host.app, host=host.host)
            return
        before = self._liveness.put(entry.key, host)
        if before is None:
            self._log.info("host joined", app=host.app, host=host.host, build=host.build, node=host.node)
            self._tell(Change("joined", host))
        elif (before.build, before.draining) != (host.build, host.draining):
            self._tell(Change("changed", host))

    def _judge(self) -> None:
        now = self._now()
        for _, host in self._liveness.judge(now):
            self._tell(Change("died", host, "expired"))
        available = self._liveness.available(now)
        if available and not self._was_available:
            self._tell(Change("judged"))
        self._was_available = available

    def _tell(self, change: Change) -> None:
        if change.host is not None:
            app = change.host.app
            self._gauge.labels(app).set(sum(host.app == app for host in self.living()))
        for listener in self._listeners:
            listener(change)

    @staticmethod
    def _key(app: str, host: str) -> str:
        return f"{token(app)}.{host}"
