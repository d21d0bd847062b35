"""Large values by their SHA-256, in a NATS object store (the layout of ADR-20, so `nats object get` reads them too)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar

import msgspec
from msgspec import Struct
from nats.nuid import NUID

from ..errors import RegrowError, ValueTooLarge, WrongRevision
from ..messages import MAX_VALUE
from .wire import as_json

if TYPE_CHECKING:
    from .client import Bus

BUCKET = "regrow_values"
STREAM = f"OBJ_{BUCKET}"
CHUNK = 128 * 1024


class ValueMissing(RegrowError):
    """A value is not in the store, or not whole."""

    code: ClassVar[str] = "value-missing"


class _Info(Struct):
    """ObjectInfo of ADR-20; `metadata.last_seq` is ours: where the last chunk stands."""

    name: str
    bucket: str
    nuid: str
    size: int
    chunks: int
    digest: str
    mtime: str
    metadata: dict[str, str] = {}
    options: dict[str, int] = {}
    deleted: bool = False


_decode = msgspec.json.Decoder(_Info).decode


def _meta_subject(key: str) -> str:
    return f"$O.{BUCKET}.M.{base64.urlsafe_b64encode(key.encode()).decode()}"


async def put_value(bus: Bus, data: bytes) -> str:
    """Store `data`; its key. Storing the same again writes nothing."""
    if len(data) > MAX_VALUE:
        raise ValueTooLarge(
            f"A value of {len(data)} bytes is too large", hint=f"at most {MAX_VALUE} bytes; pass a file's name instead"
        )
    digest = await asyncio.to_thread(hashlib.sha256, data)
    key = digest.hexdigest()
    subject = _meta_subject(key)
    found = await bus.last(STREAM, subject)
    if found is not None and not _decode(found.data).deleted:
        return key
    nuid = NUID().next().decode()
    chunk_subject = f"$O.{BUCKET}.C.{nuid}"
    last_seq = 0
    waiting: list[asyncio.Task[int]] = []
    async with asyncio.TaskGroup() as group:
        for start in range(0, len(data), CHUNK):
            await bus.ready(STREAM)
            chunk = data[start : start + CHUNK]
            waiting.append(group.create_task(_chunk(bus, chunk_subject, chunk, f"{nuid}.{start}")))
    if waiting:
        last_seq = waiting[-1].result()
    info = _Info(
        name=key,
        bucket=BUCKET,
        nuid=nuid,
        size=len(data),
        chunks=len(waiting),
        digest="SHA-256=" + base64.urlsafe_b64encode(digest.digest()).decode(),
        mtime=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        metadata={"last_seq": str(last_seq)},
        options={"max_chunk_size": CHUNK},
    )
    expected = str(found.seq if found is not None else 0)
    try:
        await bus.publish(
            STREAM,
            subject,
            as_json(info),
            f"{nuid}.meta",
            headers={"Nats-Rollup": "sub", "Nats-Expected-Last-Subject-Sequence": expected},
            timeout=60.0,
        )
    except WrongRevision:  # somebody else has just stored the same value: ours is in the way
        await bus.purge(STREAM, chunk_subject)
    return key


async def _chunk(bus: Bus, subject: str, chunk: bytes, msg_id: str) -> int:
    return (await bus.publish(STREAM, subject, chunk, msg_id, timeout=60.0)).seq


async def get_value(bus: Bus, key: str) -> bytes:
    """The value of a key; raises `ValueMissing`."""
    found = await bus.last(STREAM, _meta_subject(key))
    info = _decode(found.data) if found is not None else None
    if info is None or info.deleted:
        raise ValueMissing(f"There is no value {key}", hint="was it purged from the object store?")
    up_to = int(info.metadata.get("last_seq", "0")) or None
    chunks = await bus.history(STREAM, f"$O.{BUCKET}.C.{info.nuid}", 1, up_to, timeout=60.0) if info.chunks else []
    data = b"".join([message.data for message in chunks])
    digest = await asyncio.to_thread(hashlib.sha256, data)
    if digest.hexdigest() != key:
        raise ValueMissing(
            f"The value {key} is not whole: {len(data)} of {info.size} bytes", hint="its stream is damaged"
        )
    return data
