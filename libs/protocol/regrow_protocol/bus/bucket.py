"""Key-value buckets (the layout of NATS ADR-8): compare-and-set, TTLs, watching.

Reads go to the stream's leader, so they see every acknowledged write. Writes carry an id, so one that is repeated after
a lost acknowledgement is recognised as itself and not taken for a conflict (unless somebody else has written since). A
write that times out is taken back where that is still possible; `Unreachable` then means that it may or may not have
happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from ..errors import WrongRevision
from . import direct
from .latch import Latch
from .reader import Reader
from .wire import Received, check_subject

if TYPE_CHECKING:
    from .client import Bus

log = logging.getLogger(__name__)

Operation: TypeAlias = Literal["put", "delete", "purge", "expired"]

WRITE_TIMEOUT = 10.0


class Entry(Struct, frozen=True):
    """A change of a key as a watcher sees it.

    Attributes:
        key: its name.
        value: empty unless `operation` is `put`.
        revision: sequence in the bucket's stream; 0 for a key that was found missing after a reconnect.
        operation: `expired` is the end of a TTL.
        time: seconds since 1970.
    """

    key: str
    value: bytes
    revision: int
    operation: Operation
    time: float


def _operation(message: Received) -> Operation:
    if message.raw_headers is None:
        return "put"
    kind = message.header("KV-Operation")
    if kind == "DEL":
        return "delete"
    if kind == "PURGE":
        return "purge"
    if message.header("Nats-Marker-Reason"):
        return "expired"
    return "put"


def ttl_header(ttl: float | None) -> dict[str, str]:
    """`Nats-TTL`; the server takes one second or more."""
    return {} if ttl is None else {"Nats-TTL": f"{max(ttl, 1.0):.3f}s"}


class Watcher:
    """Calls `on_entry` with each key's last state and then every change, in order; make it with `Bucket.watch`.

    Attributes:
        current: awaitable; all keys that were there when watching began have been handed over.
    """

    def __init__(self, bus: Bus, bucket: Bucket, key_filter: str, on_entry: Callable[[Entry], None]) -> None:
        self._bucket = bucket
        self._on_entry = on_entry
        self._known: set[str] = set()
        self._seen: set[str] = set()
        self._revision = 0
        self._opened = False
        self._again = False
        self._reader = Reader(
            bus.link,
            bucket.stream,
            [bucket.prefix + key_filter],
            1,
            self._take,
            None,
            last_per_subject=True,
            on_open=self._open,
            on_current=self._current,
        )
        self.current: Latch = self._reader.caught_up

    async def stop(self) -> None:
        """End watching."""
        await self._reader.stop()

    def _open(self) -> None:
        self._again = self._opened
        self._opened = True
        self._seen = set()

    def _take(self, batch: list[Received]) -> None:
        for message in batch:
            key = message.subject[len(self._bucket.prefix) :]
            operation = _operation(message)
            if self._again and operation == "put":
                self._seen.add(key)
            if message.seq <= self._revision:
                continue
            self._revision = message.seq
            if operation == "put":
                self._known.add(key)
            else:
                self._known.discard(key)
            value = message.data if operation == "put" else b""
            self._tell(Entry(key, value, message.seq, operation, message.time))

    def _tell(self, entry: Entry) -> None:
        try:
            self._on_entry(entry)
        except Exception:  # the entries behind it must not be lost
            log.exception("The watcher of %s failed at %s", self._bucket.stream, entry.key)

    def _current(self) -> None:
        """After a reconnect: keys whose end left no trace (their markers are gone too) have ended meanwhile."""
        if not self._again:
            return
        self._again = False
        for key in sorted(self._known - self._seen):
            self._known.discard(key)
            self._tell(Entry(key, b"", 0, "expired", 0.0))
        self._seen = set()


class Bucket:
    """One bucket; make it with `Bus.kv`."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.name = name
        self.stream = f"KV_{name}"
        self.prefix = f"$KV.{name}."
        self._bus = bus

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """(value, revision), or None when the key is not there."""
        message = await direct.last(self._bus.link, self.stream, self._subject(key))
        return None if message is None or _operation(message) != "put" else (message.data, message.seq)

    async def create(self, key: str, value: bytes, *, ttl: float | None = None) -> int:
        """Write a key that is not there; its revision. Raises `WrongRevision` when it is."""
        try:
            return await self._write(key, value, 0, ttl)
        except WrongRevision:
            message = await direct.last(self._bus.link, self.stream, self._subject(key))
            if message is None or _operation(message) == "put":
                raise
            return await self._write(key, value, message.seq, ttl)

    async def get_or_create(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The value of a key, which is `make()` where it is not there: of several who ask, the first one's."""
        while True:
            found = await self.get(key)
            if found is not None:
                return found[0]
            with contextlib.suppress(WrongRevision):
                await self.create(key, make())

    async def update(self, key: str, value: bytes, revision: int, *, ttl: float | None = None) -> int:
        """Write a key whose present revision is `revision`; the new one. Raises `WrongRevision`."""
        return await self._write(key, value, revision, ttl)

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> int:
        """Write a key whatever it holds; its revision."""
        return await self._write(key, value, None, ttl)

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Delete a key; with `revision` only if it is the present one, else `WrongRevision`."""
        await self._write(key, b"", revision, None, {"KV-Operation": "DEL"})

    async def purge(self, key: str, *, marker_ttl: float | None = None) -> None:
        """Delete a key and its history; with `marker_ttl` the mark of it goes too after that time."""
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub"}
        await self._write(key, b"", None, marker_ttl, headers)

    async def keys(self, key_filter: str = ">") -> list[str]:
        """The keys that match, sorted."""
        return sorted([entry.key async for entry in self.items(key_filter)])

    async def items(self, key_filter: str = ">") -> AsyncIterator[Entry]:
        """The present entries of the keys that match, in order of their revisions."""
        found: dict[str, Entry] = {}

        def take(entry: Entry) -> None:
            found.pop(entry.key, None)
            if entry.operation == "put":
                found[entry.key] = entry

        watcher = self.watch(key_filter, take)
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                await watcher.current
        finally:
            await watcher.stop()
        for entry in found.values():
            yield entry

    def watch(self, key_filter: str, on_entry: Callable[[Entry], None]) -> Watcher:
        """Follow the keys that match (`>` for all); entries come in order, each revision once."""
        return Watcher(self._bus, self, key_filter, on_entry)

    async def drop_history(self, key: str) -> None:
        """Remove a key without leaving a trace."""
        await self._bus.purge(self.stream, self._subject(key))

    def _subject(self, key: str) -> str:
        return check_subject(self.prefix + key)

    async def _write(
        self, key: str, value: bytes, revision: int | None, ttl: float | None, headers: dict[str, str] | None = None
    ) -> int:
        lines = {**(headers or {}), **ttl_header(ttl)}
        if revision is not None:
            lines["Nats-Expected-Last-Subject-Sequence"] = str(revision)
        ack = await self._bus.publish(
            self.stream,
            self._subject(key),
            value,
            self._bus.fresh_id(),
            headers=lines,
            timeout=WRITE_TIMEOUT,
            withdraw=True,
        )
        return ack.seq
