"""Every message goes to JSON and back unchanged; what is none is refused; old bodies still decode."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from message_strategies import BODIES, INPUTS, JSON_VALUES, message
from msgspec import UNSET, Raw, Struct
from regrow_protocol import messages
from regrow_protocol.messages import (
    Call,
    Child,
    Cursor,
    DeadLetter,
    EventRecord,
    Failure,
    Op,
    Ref,
    Result,
    Start,
    Stuck,
)

OP = Op(7, "step", "fetch", "00ff", "ff00")


@pytest.mark.parametrize("cls", BODIES, ids=lambda cls: cls.__name__)
def test_a_body_survives_the_wire(cls: type[Struct]) -> None:
    """Encode, decode, compare; and encoding again gives the same bytes, so digests of bodies are stable."""

    @given(body=message(cls))
    def check(body: Any) -> None:
        data = messages.encode(body)
        back = messages.decode(data, cls)
        assert back == body
        assert messages.encode(back) == data

    check()


@pytest.mark.parametrize("cls", INPUTS, ids=lambda cls: cls.__name__)
def test_an_input_is_told_by_its_kind(cls: type[Struct]) -> None:
    """The inbox decoder gives the right type for every input, from the tag alone."""

    @given(body=message(cls))
    def check(body: Any) -> None:
        data = messages.encode(body)
        assert json.loads(data)["kind"] == cls.__struct_config__.tag
        back = messages.decode_input(data)
        assert type(back) is cls
        assert back == body

    check()


def test_kinds_are_the_documented_ones() -> None:
    """The tags are the wire protocol: renaming a class must not rename a message."""
    assert {cls.__struct_config__.tag for cls in INPUTS} == {
        *(
            "start",
            "call",
            "tool",
            "signal",
            "watch",
            "cancel",
            "again",
            "link",
            "exit",
            "upgrade",
            "resume",
            "host_lost",
        ),
        *("result", "child", "event", "timer", "act", "chunk"),
    }
    assert all(cls.__struct_config__.tag_field == "kind" for cls in INPUTS)


def test_every_inbox_message_is_an_input() -> None:
    """No message type is defined and then forgotten in the union that inboxes are decoded with."""
    assert {cls for cls in BODIES if issubclass(cls, messages.Message)} == set(INPUTS)


@given(value=JSON_VALUES)
def test_a_raw_value_is_passed_on_byte_for_byte(value: object) -> None:
    """A result is not parsed on its way: floats, big integers and key order arrive as they were sent."""
    raw = json.dumps(value, ensure_ascii=False).encode()
    back = messages.decode_input(messages.encode(Result(incarnation=0, op=OP, value=Raw(raw))))
    assert isinstance(back, Result)
    assert bytes(back.value or b"") == raw


def test_an_absent_value_is_not_null() -> None:
    """A step that returned None differs from one that failed."""
    nothing = messages.decode_input(messages.encode(Result(incarnation=0, op=OP, value=Raw(b"null"))))
    failed = messages.decode_input(messages.encode(Result(incarnation=0, op=OP, error=Failure("OSError", "gone"))))
    assert isinstance(nothing, Result)
    assert isinstance(failed, Result)
    assert nothing.value is not UNSET
    assert failed.value is UNSET
    assert failed.error == Failure("OSError", "gone", "exception", retryable=True)


def test_defaults_are_not_sent() -> None:
    """The smallest messages are small: the log holds millions of them."""
    assert messages.encode(Call(endpoint="add", args=Raw(b"{}"))) == b'{"kind":"call","endpoint":"add","args":{}}'
    assert messages.encode(messages.Resume()) == b'{"kind":"resume"}'
    assert messages.encode(Cursor(epoch=3, floor=9)) == b'{"epoch":3,"floor":9}'


def test_references_and_echoes_are_arrays() -> None:
    """`Ref` and `Op` stand in almost every message: arrays, in the documented order."""
    assert messages.encode(Ref("p_1", 0, 4)) == b'["p_1",0,4]'
    assert messages.encode(OP) == b'[7,"step","fetch","00ff","ff00"]'


def test_bytes_travel_as_base64() -> None:
    """A dead letter keeps what did not decode, whatever bytes it was."""
    letter = DeadLetter(subject="regrow.inbox.shop.0.p_1", reason="not JSON", body=b"\xff\x00{")
    data = messages.encode(letter)
    assert json.loads(data)["body"] == "/wB7"
    assert messages.decode(data, DeadLetter) == letter


def test_a_newer_sender_is_understood() -> None:
    """Unknown fields are ignored, in objects and behind arrays: a field may be added without a new protocol."""
    body = b'{"kind":"call","endpoint":"add","args":{},"priority":3,"op":[7,"call","add","a","b","more"]}'
    assert messages.decode_input(body) == Call(endpoint="add", args=Raw(b"{}"), op=Op(7, "call", "add", "a", "b"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"start"',
        b"{}",
        b'{"kind":null}',
        b'{"kind":"coup"}',
        b'{"kind":"call"}',
        b'{"kind":"call","endpoint":7,"args":{}}',
        b'{"kind":"result","incarnation":0,"op":[1,"step"]}',
        b'{"kind":"result","incarnation":0,"op":{"n":1}}',
        b'{"kind":"timer","incarnation":0,"op":[1,"timer","","",""],"due":"soon"}',
        b'{"kind":"child","incarnation":0,"op":[1,"spawn","","",""],"pid":"p_1","status":"fine"}',
        b'{"kind":"resume"} {"kind":"resume"}',
        b'{"kind":"resume"',
    ],
)
def test_what_is_no_input_is_refused(body: bytes) -> None:
    """Every way of being wrong is the one error that readers dead-letter."""
    with pytest.raises(msgspec.MsgspecError):
        messages.decode_input(body)


@given(noise=st.binary(max_size=60) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_noise_never_raises_anything_else(noise: bytes) -> None:
    """Whatever is published on an inbox, decoding gives an input or a MsgspecError."""
    try:
        back = messages.decode_input(noise)
    except msgspec.MsgspecError:
        return
    assert isinstance(back, INPUTS)


def test_messages_of_the_first_release_decode() -> None:
    """Bodies as they stand in recorded histories mean the same for ever."""
    assert messages.decode_input(
        b'{"kind":"start","k":1,"by":["p_1",0,3],"type":"survey","args":{"args":["/src"],"kwargs":{}},"build":"b1",'
        b'"incarnation":1,"since":40,"parent":["p_1",0,3],"op":[3,"spawn","survey","0a","0b"],"watch":true}'
    ) == Start(
        k=1,
        by=Ref("p_1", 0, 3),
        type="survey",
        args=Raw(b'{"args":["/src"],"kwargs":{}}'),
        build="b1",
        incarnation=1,
        since=40,
        parent=Ref("p_1", 0, 3),
        op=Op(3, "spawn", "survey", "0a", "0b"),
        watch=True,
    )
    assert messages.decode_input(
        b'{"kind":"child","incarnation":0,"op":[3,"spawn","survey","0a","0b"],"pid":"p_2","status":"failed",'
        b'"error":{"error":"ValueError","message":"no such folder","retryable":false}}'
    ) == Child(
        incarnation=0,
        op=Op(3, "spawn", "survey", "0a", "0b"),
        pid="p_2",
        status="failed",
        error=Failure("ValueError", "no such folder", retryable=False),
    )
    assert messages.decode(
        b'{"pid":"p_1","incarnation":0,"n":4,"seq":2,"type":"done","time":1790000000.5,"data":[1],"final":true,'
        b'"meta":{"type":"survey","build":"b1","program":{"target":"/src/survey.py"}}}',
        EventRecord,
    ) == EventRecord(
        pid="p_1",
        incarnation=0,
        n=4,
        seq=2,
        type="done",
        time=1790000000.5,
        data=Raw(b"[1]"),
        final=True,
        meta=messages.ProcessMeta("survey", "b1", program=messages.Program("/src/survey.py")),
    )
    assert messages.decode(
        b'{"epoch":2,"floor":90,"busy":["p_1"],"stuck":{"p_2":{"seq":7,"code":"diverged","reason":"line 3"}}}',
        Cursor,
    ) == Cursor(epoch=2, floor=90, busy=["p_1"], stuck={"p_2": Stuck(7, "diverged", "line 3")})
