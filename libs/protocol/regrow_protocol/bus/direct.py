"""Reading single messages and batches of a stream without a consumer.

Direct gets (`$JS.API.DIRECT.GET`, ADR-31) may be answered by a follower that is behind, so their end is never the
stream's end; `last` and `last_seq` ask the leader. `history` takes both together.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from ..errors import Unreachable
from .wire import ApiError, PubAck, Received, as_json, find_header, parse_headers, status_of

if TYPE_CHECKING:
    from .link import Link

BATCH = 512
BATCH_BYTES = 4 * 1024 * 1024
STALE_PATIENCE = 1.0
"""Seconds that a follower may be behind before the leader is asked message by message."""
_NO_MESSAGE = 10037


class _Stored(Struct):
    subject: str
    seq: int
    time: str
    data: bytes = b""
    hdrs: bytes | None = None


class _Answer(Struct):
    message: _Stored


class _State(Struct):
    last_seq: int = 0
    messages: int = 0
    subjects: dict[str, int] = {}


class _Info(Struct):
    state: _State
    total: int = 0


class _Purged(Struct):
    purged: int = 0


_decode_purged = msgspec.json.Decoder(_Purged).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_info = msgspec.json.Decoder(_Info).decode


@lru_cache(maxsize=256)
def _whole_seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def stream_time(text: str) -> float:
    """An RFC 3339 time of the server as the very float that `ack_parts` gives for the same message."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return (_whole_seconds(whole) * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)) / 1e9


def _from_direct(headers: bytes, data: bytes) -> Received:
    found = parse_headers(headers)
    return Received(
        subject=found["Nats-Subject"],
        seq=int(found["Nats-Sequence"]),
        time=stream_time(found["Nats-Time-Stamp"]),
        data=data,
        raw_headers=headers,
        pending=int(found.get("Nats-Num-Pending", 0)),
    )


async def get_batch(
    link: Link, stream: str, subject_filter: str, start_seq: int, *, batch: int, max_bytes: int, timeout: float
) -> tuple[list[Received], int]:
    """Up to `batch` messages from `start_seq` on, and how many more match."""
    body = as_json({"seq": max(start_seq, 1), "next_by_subj": subject_filter, "batch": batch, "max_bytes": max_bytes})
    try:
        async with asyncio.timeout(timeout):
            while True:
                result = await _one_batch(link, stream, body)
                if result is not None:
                    return result
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise Unreachable(f"{stream} gave no batch within {timeout} s", hint="is the NATS server running?") from None


async def _one_batch(link: Link, stream: str, body: bytes) -> tuple[list[Received], int] | None:
    """One attempt; None when it should be made again."""
    messages: list[Received] = []
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    def take(_subject: bytes, _reply: bytes, headers: bytes | None, data: bytes) -> None:
        if ended.done():
            return
        status = status_of(headers)
        if headers is not None and status == 0:
            messages.append(_from_direct(headers, data))
        elif status == 204 and headers is not None:
            ended.set_result(int(find_header(headers, b"Nats-Num-Pending") or 0))
        elif status == 404:
            ended.set_result(0)
        elif status == 503:
            ended.set_result(None)
        else:
            description = parse_headers(headers or b"").get("Description", "")
            ended.set_exception(
                ApiError(f"{stream} refused a batched get: {status} {description}", status=status, err_code=0)
            )

    await link.up()
    reply = link.nc.expect(take)
    try:
        link.ask(f"$JS.API.DIRECT.GET.{stream}", reply, body, ended)
        async with asyncio.timeout(2.0):
            pending = await ended
    except TimeoutError:
        return None
    finally:
        link.asked(f"$JS.API.DIRECT.GET.{stream}", ended)
        link.nc.forget(reply)
    return None if pending is None else (messages, pending)


async def history(
    link: Link, stream: str, subject: str, start_seq: int, up_to: int | None, timeout: float
) -> list[Received]:
    """All messages of `subject` from `start_seq` on, at least up to `up_to`."""
    loop = asyncio.get_running_loop()
    stale_since: float | None = None
    out: list[Received] = []
    position = start_seq
    while True:
        messages, pending = await get_batch(
            link, stream, subject, position, batch=BATCH, max_bytes=BATCH_BYTES, timeout=timeout
        )
        out += messages
        if messages:
            position = messages[-1].seq + 1
            stale_since = None
        if messages and pending:
            continue
        if up_to is None or position > up_to:
            return out
        now = loop.time()
        stale_since = stale_since or now
        if now - stale_since < STALE_PATIENCE:
            await asyncio.sleep(0.005)
            continue
        while position <= up_to:
            message = await _from_leader(link, stream, {"seq": position, "next_by_subj": subject})
            if message is None:
                return out  # it was deleted
            out.append(message)
            position = message.seq + 1
        return out


async def _from_leader(link: Link, stream: str, query: dict[str, object]) -> Received | None:
    try:
        body = await link.request(f"$JS.API.STREAM.MSG.GET.{stream}", as_json(query))
    except ApiError as error:
        if error.err_code == _NO_MESSAGE:
            return None
        raise
    found = _decode_answer(body).message
    return Received(found.subject, found.seq, stream_time(found.time), found.data, found.hdrs)


async def last(link: Link, stream: str, subject: str) -> Received | None:
    """The last message of a subject (wildcards allowed), as the leader knows it."""
    return await _from_leader(link, stream, {"last_by_subj": subject})


async def last_seq(link: Link, stream: str) -> int:
    """The last sequence of a stream, as the leader knows it."""
    return _decode_info(await link.request(f"$JS.API.STREAM.INFO.{stream}", b"")).state.last_seq


async def subjects(link: Link, stream: str, subject_filter: str) -> dict[str, int]:
    """The subjects that match and how many messages each has, as the leader knows them."""
    found: dict[str, int] = {}
    while True:
        query = as_json({"subjects_filter": subject_filter, "offset": len(found)})
        info = _decode_info(await link.request(f"$JS.API.STREAM.INFO.{stream}", query))
        found.update(info.state.subjects)
        if not info.state.subjects or len(found) >= info.total:
            return found


async def purge(link: Link, stream: str, subject: str) -> int:
    """Remove all messages of a subject (wildcards allowed); how many."""
    body = await link.request(f"$JS.API.STREAM.PURGE.{stream}", as_json({"filter": subject}))
    return _decode_purged(body).purged


async def last_matching(link: Link, stream: str, filters: list[str]) -> int:
    """The highest sequence that one of the filters matches, as the leader knows it; 0 when none does."""
    found = [await last(link, stream, subject) for subject in filters]
    return max((message.seq for message in found if message is not None), default=0)


async def find(link: Link, stream: str, subject: str, msg_id: str) -> PubAck | None:
    """The acknowledgement of a message, if it is the last one of its subject."""
    message = await last(link, stream, subject)
    if message is None or message.header("Nats-Msg-Id") != msg_id:
        return None
    return PubAck(message.seq, duplicate=True)
