"""The short way in beside nats-py's own: the same bytes give the same messages; nats-py is as assumed."""

from __future__ import annotations

import asyncio
import inspect
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from nats.aio import client as nats_client
from nats.aio.subscription import Subscription
from nats.protocol.parser import Parser as NatsParser
from regrow_protocol.bus.connection import Connection, Parser

subjects = st.sampled_from([b"a", b"regrow.inbox.a.0.p_1", b"_INBOX.x.1"])
bodies = st.binary(max_size=60) | st.sampled_from([b"\r\n", b"MSG a 1 3\r\nabc\r\n", b"PING\r\n", b""])
blocks = st.sampled_from([b"NATS/1.0\r\nA: 1\r\n\r\n", b"NATS/1.0 503\r\n\r\n"])


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One thing that a server writes."""
    kind = draw(st.sampled_from(["msg", "msg reply", "hmsg", "hmsg reply", "ping", "pong", "ok", "err"]))
    fixed = {"ping": b"PING\r\n", "pong": b"PONG\r\n", "ok": b"+OK\r\n", "err": b"-ERR 'Unknown Thing'\r\n"}
    if kind in fixed:
        return fixed[kind]
    subject, sid, body = draw(subjects), draw(st.sampled_from([b"1", b"2", b"12"])), draw(bodies)
    reply = b" _INBOX.r" if kind.endswith("reply") else b""
    if kind.startswith("msg"):
        return b"MSG %s %s%s %d\r\n%s\r\n" % (subject, sid, reply, len(body), body)
    block = draw(blocks)
    return b"HMSG %s %s%s %d %d\r\n%s%s\r\n" % (subject, sid, reply, len(block), len(block) + len(body), block, body)


class Heard(Connection):
    """Notes what a parser reports instead of acting on it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.heard.append((sid, bytes(subject), bytes(reply), bytes(data), bytes(headers or b"")))

    async def _process_ping(self) -> None:
        self.heard.append("ping")

    async def _process_pong(self) -> None:
        self.heard.append("pong")

    async def _process_err(self, err_msg: str) -> None:
        self.heard.append(("err", err_msg.lower()))


async def _feed(parser: Any, data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    for start, end in pairwise(edges):
        if end > start:
            await parser.parse(data[start:end])


@given(st.lists(frames(), max_size=12), st.lists(st.integers(min_value=0), max_size=8))
def test_the_parser_hears_what_that_of_nats_py_hears(parts: list[bytes], cuts: list[int]) -> None:
    """Whatever the server writes, and wherever the reads cut it, both parsers report the same."""
    data = b"".join(parts)

    async def run() -> None:
        ours, theirs = Heard(), Heard()
        await _feed(Parser(ours), data, cuts)
        await _feed(NatsParser(theirs), data, cuts)
        assert ours.heard == theirs.heard

    asyncio.run(run())


async def test_raw_messages_come_in_order_from_outside_any_task() -> None:
    """Raw handlers get bytes, in order, from a plain callback of the loop, even when another handler fails."""
    connection = Connection()
    seen: list[tuple[bytes, bytes, bytes | None, bytes]] = []
    tasks: list[Any] = []
    done = asyncio.Event()

    def handler(subject: bytes, reply: bytes, headers: bytes | None, data: bytes) -> None:
        seen.append((subject, reply, headers, data))
        tasks.append(asyncio.current_task())
        if data == b"bad":
            raise ValueError("of the test")
        if data == b"end":
            done.set()

    sid = connection.raw_subscribe("s", handler)
    data = b"MSG s %d 3\r\nbad\r\nHMSG s %d r 12 15\r\nNATS/1.0\r\n\r\nend\r\n" % (sid, sid)
    await connection._ps.parse(data)
    assert not seen
    await asyncio.wait_for(done.wait(), 20)
    assert seen == [(b"s", b"", None, b"bad"), (b"s", b"r", b"NATS/1.0\r\n\r\n", b"end")]
    assert tasks == [None, None]


def test_nats_py_is_as_the_connection_assumes() -> None:
    """The private parts of nats-py that the connection relies on exist and are used in the way it relies on."""
    source = inspect.getsource(nats_client.Client)
    assert "await self._ps.parse(b)" in inspect.getsource(nats_client.Client._read_loop)
    assert "for sid, sub in self._subs.items():" in inspect.getsource(nats_client.Client._attempt_reconnect)
    assert "self._ps.reset()" in inspect.getsource(nats_client.Client._process_op_err)
    assert "self._reconnection_task = asyncio" in source
    assert list(inspect.signature(nats_client.Client._process_msg).parameters) == [
        "self",
        "sid",
        "subject",
        "reply",
        "data",
        "headers",
    ]
    assert list(inspect.signature(Subscription.__init__).parameters)[:4] == ["self", "conn", "id", "subject"]
    connection = Connection()
    for name in ("_transport", "_status", "_subs", "_sid", "_server_info", "_server_pool", "_max_payload"):
        assert hasattr(connection, name), name
