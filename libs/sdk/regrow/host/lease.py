"""A host's heartbeat, from a thread of its own, and the lease that follows from it.

The record in `regrow_hosts` has a TTL; while it is renewed the supervisor leaves the host its partitions. The lease lasts one TTL
from the moment the last renewal was sent, on the boot-time clock: a laptop that slept, or a process that was stopped, knows
that its lease ran out before it publishes anything.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import msgspec
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError
from regrow_protocol.subjects import token

log = logging.getLogger("regrow.lease")

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Seconds since the machine started, sleep included."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """Keeps the host's record alive.

    Attributes:
        lost: the lease ran out once since it was last confirmed; nothing may be published until `confirm`.
    """

    def __init__(self, url: str, record: m.HostRecord, ttl: float, *, on_lost: Callable[[], None]) -> None:
        self._url = url
        self._record = record
        self._ttl = ttl
        self._until = 0.0
        self.lost = False
        self._on_lost = on_lost
        self._stop = threading.Event()
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._main = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="regrow-lease", daemon=True)

    @property
    def key(self) -> str:
        """The record's key in `regrow_hosts`."""
        return f"{token(self._record.app)}.{self._record.host}"

    def valid(self) -> bool:
        """Whether this host may publish and start steps now."""
        if self.lost:
            return False
        if boot_time() < self._until:
            return True
        self.lost = True
        log.warning(
            "the lease of host %s ran out; it is silent until it has read what it still owns", self._record.host
        )
        self._main.call_soon_threadsafe(self._on_lost)
        return False

    @property
    def renewed(self) -> bool:
        """The record has been renewed within the last TTL."""
        return boot_time() < self._until

    def confirm(self) -> None:
        """The host has read what it still owns."""
        self.lost = False

    def update(self, **changes: object) -> None:
        """Change the record with the next heartbeat."""
        self._record = msgspec.structs.replace(self._record, **changes)

    async def start(self) -> None:
        """Register; returns when the record is there."""
        self._thread.start()
        await asyncio.to_thread(self._started.wait, 15)
        if self._error is not None:
            raise self._error

    async def stop(self, *, release: bool = True) -> None:
        """Stop renewing; with `release` delete the record, so that others take over at once."""
        self._release = release
        self._stop.set()
        await asyncio.to_thread(self._thread.join, 5)

    _release = True

    def _run(self) -> None:
        try:
            asyncio.run(self._beat())
        except RegrowError as error:
            self._error = error
            log.error("the heartbeat of host %s ended: %s", self._record.host, error)  # noqa: TRY400 - no traceback
        finally:
            self._started.set()

    async def _beat(self) -> None:
        bus = await Bus.connect(self._url, name=f"regrow-lease-{self._record.host}")
        hosts = bus.kv("regrow_hosts")
        interval = self._ttl / 5
        try:
            while not self._stop.is_set():
                sent = boot_time()
                try:
                    async with asyncio.timeout(max(self._ttl, 1.0)):
                        await hosts.put(self.key, m.encode(self._record), ttl=self._ttl)
                except (RegrowError, TimeoutError) as error:
                    log.warning("a heartbeat of host %s failed: %s", self._record.host, error or "time-out")
                else:
                    self._until = sent + self._ttl
                    self._started.set()
                await asyncio.sleep(max(0.02, interval - (boot_time() - sent)))
            if self._release:
                async with asyncio.timeout(3):
                    await hosts.purge(self.key, marker_ttl=60)
        except (RegrowError, TimeoutError):
            log.warning("host %s could not release its record; its TTL will", self._record.host)
        finally:
            await bus.close()
