"""What comes over the wire is taken apart as nats-py does it; what goes out cannot break out of its line."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from regrow_protocol.bus import direct, wire
from regrow_protocol.errors import InvalidName


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.REGROW_INBOX_a.c0.1.501.17.1795246858794453123.42",
        "$JS.ACK._.hash.REGROW_INBOX_a.c0.3.501.17.1795246858794453123.42",
        "$JS.ACK.hub.hash.REGROW_INBOX_a.c0.3.501.17.1795246858794453123.42.random",
        "$JS.ACK.hub.hash.REGROW_INBOX_a.c0.3.501.17.1795246858794453123.42.random.more",
    ],
)
def test_acknowledgement_subjects_are_read_as_nats_py_reads_them(reply: str) -> None:
    """Both forms of ADR-15 give the numbers that nats-py's metadata has."""
    seq, number, time, pending = wire.ack_parts(reply.encode())
    metadata = Msg.Metadata._from_reply(reply)
    assert (seq, number, pending) == (metadata.sequence.stream, metadata.sequence.consumer, metadata.num_pending)
    assert datetime.fromtimestamp(time, UTC) == metadata.timestamp
    assert wire.delivery_count(reply.encode()) == metadata.num_delivered


@given(st.integers(min_value=1_000_000_000 * 10**9, max_value=4_000_000_000 * 10**9))
def test_a_time_is_the_same_float_in_both_forms(nanoseconds: int) -> None:
    """A time as text (direct get) and as a number (consumer) gives the very same float: replay depends on it."""
    whole = datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{nanoseconds % 10**9:09d}".rstrip("0")
    text = f"{whole}.{fraction}Z" if fraction else f"{whole}Z"
    assert direct.stream_time(text) == wire.ack_parts(b"$JS.ACK.s.c.1.1.1.%d.0" % nanoseconds)[2]


@pytest.mark.parametrize(
    "block",
    [
        b"NATS/1.0\r\nNats-Msg-Id: 1\r\ntraceparent: 00-ab-cd-01\r\n\r\n",
        b"NATS/1.0\r\nA:1\r\nB:\t2 \r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 404 No Messages\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1016\r\nNats-Last-Stream: 1024\r\n\r\n",
    ],
)
async def test_headers_are_read_as_nats_py_reads_them(block: bytes) -> None:
    """A header block gives nats-py's dict, and `find_header` each of its values."""
    expected = await Client()._process_headers(block)
    assert wire.parse_headers(block) == {str(getattr(k, "value", k)): v for k, v in (expected or {}).items()}
    for name, value in wire.parse_headers(block).items():
        if name not in ("Status", "Description"):
            assert wire.find_header(block, name.encode()) == value
    assert wire.find_header(block, b"Absent") is None
    assert wire.status_of(block) == int((expected or {}).get("Status", 0))


def test_headers_of_a_message_are_parsed_on_demand() -> None:
    """`headers` and `header` read the raw block; a message without one has None."""
    message = wire.Received("s", 1, 0.0, b"", b"NATS/1.0\r\nA: 1\r\n\r\n")
    assert (message.headers, message.header("A"), message.header("B")) == ({"A": "1"}, "1", None)
    bare = wire.Received("s", 1, 0.0, b"")
    assert (bare.headers, bare.header("A")) == (None, None)


@pytest.mark.parametrize(
    "subject",
    ["", "a b", "a\r\nPUB x 0", "a\tb", "a\x00b", ".a", "a.", "a..b", "a.*", "*", "a.>", "x" * 3073, "a.\ud800"],
)
def test_a_subject_cannot_break_out(subject: str) -> None:
    """What would start another protocol line, end the connection, or be many subjects is refused."""
    with pytest.raises(InvalidName):
        wire.check_subject(subject)


@pytest.mark.parametrize(
    ("name", "value"), [("A", "x\r\nB: y"), ("A", "\ud800"), ("A\r\n", "x"), ("A:", "x"), ("", "x"), ("A b", "x")]
)
def test_a_header_cannot_break_out(name: str, value: str) -> None:
    """A header that would add another one is refused."""
    with pytest.raises(InvalidName):
        wire.header_lines({name: value})


@pytest.mark.parametrize("subject", ["a", "a.b-c_d.=20=", "$KV.x.y", "a*b.c>d", "a.\u00e4"])
def test_a_subject_may_hold_what_means_nothing(subject: str) -> None:
    """Everything else passes as it is."""
    assert wire.check_subject(subject) == subject


def test_a_publish_is_written_as_the_protocol_says() -> None:
    """Lengths count bytes, also of headers beyond ASCII."""
    head = wire.header_lines({"A": "\u00e4"})
    line, block, rest = wire.hpub("s", "r", head, b"body").split(b"\r\n", 2)
    assert line == b"HPUB s r %d %d" % (12 + len(head), 16 + len(head))
    assert block + b"\r\n" + rest == b"NATS/1.0\r\nA: \xc3\xa4\r\n\r\nbody\r\n"
    assert wire.pub("s", "", b"x") == b"PUB s  1\r\nx\r\n"


def test_an_api_error_is_seen() -> None:
    """Only an answer with an `error` object is an error, also when its data contain the word."""
    error = wire.api_error(b'{"type":"x","error":{"code":404,"err_code":10059,"description":"stream not found"}}')
    assert error is not None
    assert (error.code, error.err_code) == (404, 10059)
    assert wire.api_error(b'{"state":{"subjects":{"\\"error\\"":1}}}') is None
    assert wire.api_error(b'{"state":{}}') is None


@given(st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF), max_size=40))
def test_a_message_id_alone_makes_the_same_header_as_among_others(msg_id: str) -> None:
    """The short way for the usual header writes and refuses what the long one does."""
    try:
        expected = wire.header_lines({"Nats-Msg-Id": msg_id})
    except InvalidName:
        with pytest.raises(InvalidName):
            wire.id_line(msg_id)
    else:
        assert wire.id_line(msg_id) == expected


@given(st.text("ab.*> \t\r\n\x00\x7fä", max_size=12))
def test_the_short_way_for_subjects_takes_nothing_that_the_long_one_refuses(subject: str) -> None:
    """Whatever looks plain holds nothing that must not be there."""
    if wire._PLAIN_SUBJECT.fullmatch(subject):
        assert subject
        assert not wire._NO_SUBJECT.search(subject)
