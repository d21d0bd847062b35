"""Values travel as JSON and come back as their annotation says; what cannot is a clear error where it is handed in."""

from __future__ import annotations

import enum
import inspect
import logging
import math
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from regrow import InvalidArguments, NotSendable, ProcessHandle
from regrow.codec import Signature, digest_bytes, from_raw, result_type, to_raw
from regrow_protocol.errors import ValueTooLarge
from regrow_protocol.messages import MAX_VALUE


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Point:
    x: float
    y: float = 0.0
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    begin: Point
    end: Point | None = None
    colour: Colour = Colour.RED


class Circle(msgspec.Struct, tag=True):
    radius: float
    centre: Point = Point(0)


class Square(msgspec.Struct, tag=True):
    side: float


class Movie(TypedDict):
    name: str
    year: NotRequired[int]
    lines: list[Line]


NOW = datetime(2026, 2, 28, 12, 30, 15, 123456, UTC)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")

ROUND_TRIPS: list[tuple[Any, Any]] = [
    (None, None),
    (True, bool),
    (5, int),
    (2**63, int),
    (-(2**200), int),
    (10**400, Any),
    (1.5, float),
    (-0.0, float),
    (1e308, float),
    ("", str),
    ("ünï\u2028\x00🙂", str),
    (b"\x00\xff", bytes),
    ([1, "a", None, {"b": [1.5]}], Any),
    ({"a": {"b": None}}, dict[str, dict[str, None]]),
    ({1: "a", 2: "b"}, dict[int, str]),
    ((1, "a"), tuple[int, str]),
    ((1, 2, 3), tuple[int, ...]),
    ({1, 2, 3}, set[int]),
    (frozenset({"a"}), frozenset[str]),
    (NOW, datetime),
    (NOW.replace(tzinfo=None), datetime),
    (date(2026, 2, 28), date),
    (timedelta(days=30, microseconds=7), timedelta),
    (ID, uuid.UUID),
    (Path("/tmp/a b"), Path),
    (Colour.BLUE, Colour),
    (Level.HIGH, Level),
    (Point(1, 2, ["a"]), Point),
    (Line(Point(1), Point(2), Colour.BLUE), Line),
    ([Line(Point(1)), Line(Point(2), Point(3))], list[Line]),
    ({"a": Line(Point(1))}, dict[str, Line]),
    (Circle(2.0, Point(1)), Circle | Square),
    (Square(2.0), Circle | Square),
    ({"name": "x", "lines": [Line(Point(1))]}, Movie),
    (None, Line | None),
    (Line(Point(1)), Line | None),
    ("null", str | None),
    ("5", int | str),
    (5, int | str),
    ("true", bool | str),
    ("2026-02-28", str),
    ("a", Literal["a", "b"]),
    (ProcessHandle("p_1"), ProcessHandle),
    (ProcessHandle("p_1"), ProcessHandle | None),
    ([ProcessHandle("p_1")], list[ProcessHandle]),
    ({"workers": {"a": ProcessHandle("p_1")}}, Any),
    ([ProcessHandle("p_1"), 2], list),
]


@pytest.mark.parametrize(("value", "type_"), ROUND_TRIPS, ids=lambda x: str(x)[:30])
def test_round_trips(value: Any, type_: Any) -> None:
    """What is sent comes back equal, and of the same class, where the annotation names it."""
    raw = to_raw(value)
    back = from_raw(raw, type_)
    assert back == value
    assert type(back) is type(value)
    assert math.copysign(1, back) == math.copysign(1, value) if isinstance(value, float) else True


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="$"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_any_json_round_trips(value: Any) -> None:
    """Plain JSON comes back as it was, dictionaries in their order."""
    back = from_raw(to_raw(value))
    assert back == value
    if isinstance(value, dict):
        assert list(back) == list(value)


class Opaque:
    """Cannot be sent."""


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


loop: list[Any] = []
loop.append(loop)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Opaque(), "test_codec.Opaque"),
        ([1, {"a": Rude()}], "test_codec.Rude"),
        (print, "builtin_function_or_method"),
        (lambda: 1, "function"),
        (1j, "complex"),
        ({(1, 2): 3}, "builtins.tuple"),
        (loop, "recursion"),
        ("\udc80", "surrogates"),
        (10**5000, "digits"),
        (math.nan, "NaN"),
        (math.inf, "NaN and infinity"),
        ([None, {"a": [-math.inf]}], "NaN and infinity"),
        (Point(math.nan), "NaN and infinity"),
        (Line(Point(1), Point(2, math.inf)), "NaN and infinity"),
        ({"$blob": "x"}, "$blob"),
        ((x for x in "ab"), "generator"),
        (ValueError("x"), "ValueError"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_cannot_be_sent(value: Any, why: str) -> None:
    """The error names what was to be sent, why it cannot be, and what could."""
    with pytest.raises(NotSendable) as caught:
        to_raw(value, "The data of event 'x'")
    assert str(caught.value).startswith("The data of event 'x' cannot be sent: ")
    assert why in str(caught.value)
    assert "JSON types" in caught.value.hint
    assert isinstance(caught.value, TypeError)


def test_none_is_not_taken_for_nan() -> None:
    """Only what is not finite is refused, not every null."""
    value = {"a": None, "b": [1.5, None], "c": "null"}
    assert from_raw(to_raw(value)) == value


def test_values_too_large() -> None:
    """At 64 MiB it ends, and the error says how large the value is and where to put it."""
    to_raw("x" * (MAX_VALUE - 2))
    with pytest.raises(ValueTooLarge, match=r"67,108,865 bytes.*in a step"):
        to_raw("x" * (MAX_VALUE - 1))


@pytest.mark.parametrize(
    ("raw", "type_", "value"),
    [
        (b'"5"', int, 5),
        (b'"1.5"', float, 1.5),
        (b'"true"', bool, True),
        (b'["1","2"]', list[int], [1, 2]),
        (b'{"x":"1","y":"2"}', Point, Point(1, 2)),
        (b"5", float, 5.0),
        (b'"null"', str, "null"),
    ],
)
def test_texts_are_read_as_what_is_asked_for(raw: bytes, type_: Any, value: Any) -> None:
    """The command line sends texts; but a text that fits the annotation as it is stays a text."""
    assert from_raw(raw, type_) == value


@pytest.mark.parametrize(
    ("raw", "type_"),
    [
        (b'"x"', int),
        (b"1.5", int),
        (b"null", int),
        (b"5", str),
        (b'{"x":1}', Line),
        (b'"green"', Colour),
        (b'{"y":1}', Point),
        (b'"p_1"', ProcessHandle),
        (b"[1]", Path),
        (b"[[[", Any),
        (b"3", Annotated[int, msgspec.Meta(gt=5)]),
    ],
)
def test_what_does_not_fit(raw: bytes, type_: Any) -> None:
    """It is an error of msgspec, whatever the class."""
    with pytest.raises((msgspec.MsgspecError, NotImplementedError)):
        from_raw(raw, type_)


def test_unions_that_json_cannot_tell_apart(caplog: pytest.LogCaptureFixture) -> None:
    """They arrive as plain JSON, and the log says so once."""
    with caplog.at_level(logging.WARNING):
        assert from_raw(b'{"x":1}', Point | Line) == {"x": 1}
        assert from_raw(b'{"x":1}', Point | Line) == {"x": 1}
        assert from_raw(b'"a"', str | Path) == "a"
    assert caplog.text.count("tag=True") == 1


def test_digests_take_anything() -> None:
    """Arguments of steps are not sent: what has no JSON counts by its type, and is the same for every object of it."""
    assert digest_bytes([Opaque()]) == digest_bytes([Opaque()]) != digest_bytes([Rude()])
    assert digest_bytes((1, math.nan)) == digest_bytes((1, math.nan))
    assert digest_bytes([loop]) == digest_bytes([loop])
    assert digest_bytes((1,)) != digest_bytes((2,))


# Signatures -----------------------------------------------------------------------------------------------------------


def plain(a: int, b: str = "x", *, c: float = 1.0) -> str:
    return f"{a} {b} {c}"


def needs_keyword(a: int, b: int = 1, *, c: int) -> None: ...


def rest(a: int, b: int = 2, *others: Point, **named: datetime) -> None: ...


def positional(a: int, b: int = 5, /, c: int = 6) -> None: ...


def nested(line: Line, handle: ProcessHandle, when: datetime | None = None) -> list[Line]:
    return [line]


def travel(function: Any, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a function receives that is called on the other side."""
    signature = Signature(function, f"{function.__name__}()")
    got_args, got_kwargs = signature.decode(signature.encode(args, kwargs))
    bound = inspect.signature(function).bind(*got_args, **got_kwargs)
    bound.apply_defaults()
    return bound.args, bound.kwargs


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "received"),
    [
        (plain, (1,), {}, ((1, "x"), {"c": 1.0})),
        (plain, (1, "y"), {"c": 2}, ((1, "y"), {"c": 2.0})),
        (plain, (), {"b": "z", "a": 3}, ((3, "z"), {"c": 1.0})),
        (needs_keyword, (1,), {"c": 3}, ((1, 1), {"c": 3})),
        (rest, (1,), {}, ((1, 2), {})),
        (rest, (1, 2, Point(3), Point(4)), {"when": NOW}, ((1, 2, Point(3), Point(4)), {"when": NOW})),
        (rest, (1,), {"named": NOW}, ((1, 2), {"named": NOW})),
        (positional, (1,), {}, ((1, 5, 6), {})),
        (positional, (1,), {"c": 7}, ((1, 5, 7), {})),
        (positional, (1, 2, 3), {}, ((1, 2, 3), {})),
        (nested, (Line(Point(1)), ProcessHandle("p_1")), {}, ((Line(Point(1)), ProcessHandle("p_1"), None), {})),
        (nested, (Line(Point(1)), ProcessHandle("p_1"), NOW), {}, ((Line(Point(1)), ProcessHandle("p_1"), NOW), {})),
    ],
)
def test_arguments_are_bound_as_python_does(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], received: tuple[tuple[Any, ...], dict[str, Any]]
) -> None:
    """Positions, keywords, defaults, *args and **kwargs arrive where a plain call puts them, of the right class."""
    assert travel(function, *args, **kwargs) == received


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "text"),
    [
        (plain, (), {}, "missing a required argument: 'a'"),
        (plain, (1, 2, 3), {}, "too many positional"),
        (plain, (1,), {"d": 4}, "unexpected keyword argument 'd'"),
        (plain, (1,), {"a": 2}, "multiple values for argument 'a'"),
        (needs_keyword, (1, 2), {}, "missing a required argument: 'c'"),
        (positional, (), {"a": 1}, "'a'"),
        (rest, (1,), {"others": NOW}, "'others' is the name of another parameter"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_the_call(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    """The caller gets the error of Python, with the function's name and signature."""
    with pytest.raises(InvalidArguments) as caught:
        Signature(function, f"{function.__name__}()").encode(args, kwargs)
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"{function.__name__}(): ")
    assert "its signature is (" in caught.value.hint


@pytest.mark.parametrize(
    ("function", "raw", "text"),
    [
        (plain, b'{"a":"x"}', "argument 'a': Expected `int`"),
        (plain, b'{"a":1,"zz":2}', "unexpected keyword argument 'zz'"),
        (plain, b"{}", "missing a required argument: 'a'"),
        (plain, b"[1]", "must be a JSON object"),
        (plain, b"{", "must be a JSON object"),
        (rest, b'{"others":[{"x":1}]}', "missing a required argument: 'a'"),
        (rest, b'{"a":1,"b":2,"others":[{"z":1}]}', "argument 'others'"),
        (rest, b'{"a":1,"b":2,"when":"never"}', "argument 'when'"),
        (nested, b'{"line":{"begin":{"x":1}},"handle":"p_1"}', "argument 'handle'"),
    ],
)
def test_arguments_of_clients_that_do_not_fit(function: Any, raw: bytes, text: str) -> None:
    """Any client may send anything: what does not fit names the argument."""
    with pytest.raises(InvalidArguments) as caught:
        Signature(function, f"{function.__name__}()").decode(raw)
    assert text in str(caught.value)


def test_defaults_before_further_positions() -> None:
    """A client that leaves out what has a default does not shift what comes after."""
    args, kwargs = Signature(rest, "rest()").decode(b'{"a":1,"others":[{"x":3}]}')
    assert (args, kwargs) == ([1, 2, Point(3)], {})


def test_annotations_that_cannot_be_read() -> None:
    """Names that only a type checker knows spoil no other annotation."""

    def half(a: int, b: Unknown, *, c: Point) -> Missing: ...  # type: ignore[name-defined]  # noqa: F821

    signature = Signature(half, "half()")
    assert signature.decode(b'{"a":"1","b":{"x":1},"c":{"x":2}}') == ([], {"a": 1, "b": {"x": 1}, "c": Point(2)})
    assert signature.result is Any
    assert result_type(half) is Any
    assert result_type(nested) == list[Line]


def test_not_sendable_arguments_name_the_function() -> None:
    """The error says which call it was."""
    with pytest.raises(NotSendable, match=r"An argument of plain\(\) cannot be sent"):
        Signature(plain, "plain()").encode((Opaque(),), {})


def test_arguments_are_json_by_name() -> None:
    """What travels is one object by parameter name, without defaults: any client can write it."""
    assert Signature(plain, "f").encode((1,), {}) == Raw(b'{"a":1}')
    assert bytes(Signature(rest, "f").encode((1, 2, Point(3)), {"when": NOW})) == (
        b'{"a":1,"b":2,"others":[{"x":3,"y":0.0,"tags":[]}],"when":"2026-02-28T12:30:15.123456Z"}'
    )
