"""Large values: what is over 256 KiB goes to the object store, and a reference travels in its place.

The reference is `{"$blob":"<sha256>","size":<bytes>}`. It is made when a message is encoded and resolved before it is
applied, so folds never see one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Raw, Struct

from . import messages as m

_FIELDS = ("args", "value", "data")
_MARK = b'{"$blob":'


class _Blob(Struct):
    sha: str = msgspec.field(name="$blob")
    size: int


def deflate(message: Any) -> tuple[Any, list[bytes]]:
    """The message with its large values replaced, and those values."""
    blobs: list[bytes] = []
    changed: dict[str, Any] = {}
    for name in _FIELDS:
        raw = getattr(message, name, None)
        if isinstance(raw, Raw) and len(data := bytes(raw)) > m.MAX_INLINE // 2:
            blobs.append(data)
            sha = hashlib.sha256(data).hexdigest()
            changed[name] = Raw(msgspec.json.encode(_Blob(sha, len(data))))
    event = getattr(message, "event", None)
    if isinstance(event, m.EventRecord):
        inner, more = deflate(event)
        if more:
            blobs += more
            changed["event"] = inner
    return (msgspec.structs.replace(message, **changed) if changed else message), blobs


def has_blob(payload: bytes) -> bool:
    """Whether a payload may hold a reference."""
    return _MARK in payload


async def inflate(message: Any, get: Callable[[str], Awaitable[bytes]]) -> Any:
    """The message with its references resolved."""
    changed: dict[str, Any] = {}
    for name in _FIELDS:
        raw = getattr(message, name, None)
        if isinstance(raw, Raw) and (data := bytes(raw)).startswith(_MARK):
            try:
                blob = msgspec.json.decode(data, type=_Blob)
            except msgspec.ValidationError:
                continue  # a program's own value that only looks like one
            changed[name] = Raw(await get(blob.sha))
    event = getattr(message, "event", None)
    if isinstance(event, m.EventRecord):
        changed["event"] = await inflate(event, get)
    return msgspec.structs.replace(message, **changed) if changed else message
