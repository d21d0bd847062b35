"""A host's heartbeat, from a thread of its own, and the lease that follows from it.

The record in `regrow_hosts` has a TTL; while it is renewed the supervisor leaves the host its partitions. The lease
lasts one TTL from the moment the last renewal was sent, on the boot-time clock: a laptop that slept, or a process that
was stopped, knows that its lease ran out before it publishes anything. A lease that was renewed too late has been lost
meanwhile all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError, Unreachable
from regrow_protocol.subjects import token

log = logging.getLogger("regrow.lease")

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
START_TIMEOUT = 15.0
RETRY = 0.2
RELEASED_TTL = 60.0
"""Seconds that the mark of a released record stays."""

T = TypeVar("T")


def boot_time() -> float:
    """Seconds since the machine started, sleep included."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """Keeps the host's record alive.

    Args:
        on_lost: called in the loop that made this when the lease was lost; nothing may be published until `confirm`.
        on_failed: called there when the heartbeat cannot go on at all.

    Attributes:
        lost: the lease ran out once since it was last confirmed.
    """

    def __init__(
        self,
        url: str,
        record: m.HostRecord,
        ttl: float,
        *,
        on_lost: Callable[[], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self._url = url
        self._record = record
        self._ttl = ttl
        self._until = 0.0
        self.lost = False
        self._lock = threading.Lock()
        self._on_lost = on_lost
        self._on_failed = on_failed
        self._stop = threading.Event()
        self._wake: asyncio.Event | None = None
        self._started = threading.Event()
        self._release = True
        self._main = asyncio.get_running_loop()
        self._error: BaseException | None = None
        self._problem = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bus: Bus | None = None
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
        self._lose()
        return False

    @property
    def renewed(self) -> bool:
        """The record has been renewed within the last TTL."""
        return boot_time() < self._until

    def confirm(self) -> None:
        """The host has read what it still owns."""
        self.lost = False

    async def start(self) -> None:
        """Register; returns when the record is there. Raises what keeps it from that."""
        self._thread.start()
        started = await asyncio.to_thread(self._started.wait, START_TIMEOUT)
        if self._error is not None:
            raise self._error
        if not started:
            raise Unreachable(f"Host {self._record.host} could not register: {self._problem or 'no answer'}")

    async def stop(self, *, release: bool = True) -> None:
        """Stop renewing; with `release` delete the record, so that others take over at once."""
        self._release = release
        self._stop.set()
        self._hurry()
        await asyncio.to_thread(self._thread.join, 5)

    def drain(self) -> None:
        """Say in the record that the host is about to end: the supervisor gives what it owns to others."""
        self._record = msgspec.structs.replace(self._record, draining=True)
        self._hurry()

    def _hurry(self) -> None:
        """Let the next heartbeat come at once."""
        if self._loop is not None and self._wake is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._wake.set)

    def run(self, function: Callable[[Bus], Awaitable[T]], timeout: float) -> T:
        """Have the heartbeat's thread do something with its connection; called from another thread."""
        assert self._loop is not None
        assert self._bus is not None
        bus = self._bus

        async def call() -> T:
            async with asyncio.timeout(timeout):
                return await function(bus)

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(timeout + 1)

    def _lose(self) -> None:
        with self._lock:  # both threads may notice
            if self.lost:
                return
            self.lost = True
        log.warning(
            "the lease of host %s ran out; it is silent until it has read what it still owns", self._record.host
        )
        self._main.call_soon_threadsafe(self._on_lost)

    # The thread -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._beat())
        except BaseException as error:
            self._error = error
            if self._started.is_set():
                log.exception("the heartbeat of host %s ended", self._record.host)
                self._main.call_soon_threadsafe(self._on_failed, error)
        finally:
            self._started.set()

    async def _beat(self) -> None:
        self._wake = wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._bus = bus = await Bus.connect(self._url, name=f"regrow-lease-{self._record.host}")
        hosts = bus.kv("regrow_hosts")
        try:
            while not self._stop.is_set():
                sent = boot_time()
                try:
                    async with asyncio.timeout(max(self._ttl, 1.0)):
                        await hosts.put(self.key, m.encode(self._record), ttl=self._ttl)
                except (RegrowError, TimeoutError) as error:
                    self._problem = str(error) or "time-out"
                    log.warning("a heartbeat of host %s failed: %s", self._record.host, self._problem)
                    await asyncio.sleep(RETRY)
                    continue
                if self._until and boot_time() >= self._until:
                    self._lose()
                self._until = sent + self._ttl
                self._started.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.02, self._ttl / 5 - (boot_time() - sent))):
                        await wake.wait()
                wake.clear()
            if self._release:
                async with asyncio.timeout(3):
                    await hosts.purge(self.key, marker_ttl=RELEASED_TTL)
        except TimeoutError:
            log.warning("host %s could not release its record; its TTL will", self._record.host)
        except RegrowError as error:
            log.warning("host %s could not release its record; its TTL will: %s", self._record.host, error)
        finally:
            await bus.close()
