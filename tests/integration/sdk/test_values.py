"""Values travel by their annotations, large ones too; what cannot travel is an error at the call."""

from __future__ import annotations

import asyncio
import enum
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

import msgspec
import pytest
from regrow import (
    CallFailed,
    ExecutionFailed,
    InvalidArguments,
    NotSendable,
    ProcessHandle,
    RegrowError,
    agent_process,
    done,
    emit,
    expose,
    spawn,
    step,
    wait,
)
from regrow.testing import Runtime
from regrow_protocol import messages as m
from regrow_protocol import streams

from .looking import event, inputs


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: float = 0.0
    tags: list[str] = field(default_factory=list)


class Shape(msgspec.Struct):
    name: str
    points: list[Point] = []
    colour: Colour = Colour.RED


class Person(TypedDict):
    name: str
    born: datetime


BORN = datetime(1815, 12, 10, 8, 30, tzinfo=UTC)


@agent_process
async def echo_all(
    point: Point,
    shape: Shape,
    person: Person,
    at: datetime,
    raw: bytes,
    colour: Colour,
    length: timedelta,
    pair: tuple[int, str],
) -> list[str]:
    return [
        type(v).__name__
        for v in (point, shape, shape.points[0], shape.colour, person, person["born"], at, raw, colour, length, pair)
    ]


@agent_process
async def passes_all() -> list[str]:
    return await echo_all(
        Point(1, 2.5), Shape("s", [Point(3)], Colour.BLUE), {"name": "Ada", "born": BORN}, BORN, b"\x00\xff",
        Colour.RED, timedelta(days=2), (1, "a"),
    )  # fmt: skip


async def test_arguments_arrive_as_their_annotations_say(rt: Runtime) -> None:
    """Dataclasses, Structs, TypedDicts, datetimes, bytes, enums, timedeltas and tuples arrive as what they are."""
    assert await rt.run(passes_all) == [
        "Point", "Shape", "Point", "Colour", "dict", "datetime", "datetime", "bytes", "Colour", "timedelta", "tuple",
    ]  # fmt: skip


@agent_process
async def gives_shape() -> Shape:
    return Shape("triangle", [Point(1, 1.5, ["a"])], Colour.BLUE)


@agent_process
async def gives_born() -> dict[str, datetime]:
    return {"born": BORN}


@agent_process
async def gives_bytes() -> bytes:
    return bytes(range(256))


def measured(point: Point) -> Point:
    return Point(point.x + 1, point.y, [*point.tags, "measured"])


@agent_process
async def takes_results() -> bool:
    assert await gives_shape() == Shape("triangle", [Point(1, 1.5, ["a"])], Colour.BLUE)
    assert await spawn(gives_born) == {"born": BORN}
    assert await gives_bytes() == bytes(range(256))
    assert await step(measured, Point(1, 2.0)) == Point(2, 2.0, ["measured"])
    return True


async def test_results_of_children_and_steps_arrive_as_their_annotations_say(rt: Runtime) -> None:
    """A result is rebuilt by the annotation of the process or step function that gave it."""
    assert await rt.run(takes_results)
    assert await rt.run(gives_shape) == Shape("triangle", [Point(1, 1.5, ["a"])], Colour.BLUE)


@agent_process
async def drawer() -> None:
    @expose
    async def draw(shape: Shape, at: datetime, ink: bytes = b"") -> list[Any]:
        return [type(shape).__name__, shape.points[0].x, at.year, len(ink)]

    await wait()


async def test_endpoints_take_arguments_by_annotation(rt: Runtime) -> None:
    """An endpoint's arguments are rebuilt by its annotations."""
    root = await rt.start(drawer)
    answer = await root.call("draw", shape=Shape("s", [Point(7)]), at=BORN, ink=b"123")
    assert answer == ["Shape", 7, 1815, 3]


@agent_process
async def box(content: list[ProcessHandle], by_name: dict[str, Any]) -> list[str]:
    return [await content[0], await by_name["one"]]


@agent_process
async def word(text: str) -> str:
    return text


@agent_process
async def gives_handles() -> list[str]:
    one = spawn(word, "word")
    return await box([one], {"one": one})


async def test_handles_travel_inside_other_values(rt: Runtime) -> None:
    """A handle within a list or an unannotated dict arrives as a handle that can be awaited."""
    assert await rt.run(gives_handles) == ["word", "word"]


@agent_process
async def gives_objects() -> dict[str, object]:
    return {"a": [1, "b", None]}


async def test_object_is_any(rt: Runtime) -> None:
    """The annotation `object` takes plain JSON, as Any does."""
    assert await rt.run(gives_objects) == {"a": [1, "b", None]}


def text_of(size: int) -> str:
    return "z" * size


@agent_process
async def long_child(text: str) -> str:
    emit("long", text)
    return text[::-1]


@agent_process
async def handles_large_values(text: str) -> list[Any]:
    finished = asyncio.Event()

    @expose
    async def echo(what: str) -> str:
        return what + what

    @expose
    async def finish() -> None:
        finished.set()

    child = spawn(long_child, text + "!")
    heard = await child.events.listen_for("long")
    result: str = await child
    stepped = await step(text_of, 300_000)
    await finished.wait()
    return [len(text), len(heard.data), len(result), result.startswith("!"), len(stepped)]


SIZE = 400_000


async def test_large_values_go_through_the_object_store(rt: Runtime) -> None:
    """Arguments, results, events, step results and answers of over 256 KiB arrive whole, beside the log."""
    root = await rt.start(handles_large_values, "x" * SIZE)
    assert len(await root.call("echo", what="y" * SIZE)) == 2 * SIZE
    await root.call("finish")
    assert await root.result(40) == [SIZE, SIZE + 1, SIZE + 1, True, 300_000]
    info = json.loads(await rt.bus.request(f"$JS.API.STREAM.INFO.{streams.inbox_stream(rt.app)}"))
    assert info["state"]["bytes"] < SIZE
    [start] = await inputs(rt, root.pid, m.Start)
    assert b"$blob" in bytes(start.args)


async def test_large_values_survive_a_crash(rt: Runtime) -> None:
    """A process whose arguments stand in the object store is folded anew from them."""
    root = await rt.start(handles_large_values, "x" * SIZE)
    assert len(await root.call("echo", what="y" * SIZE)) == 2 * SIZE
    await rt.kill_host()
    await root.call("finish")
    assert (await root.result(40))[:3] == [SIZE, SIZE + 1, SIZE + 1]


@agent_process
async def sends_too_much() -> list[str]:
    text = "x" * (64 * 1024 * 1024 + 1)
    found: list[str] = []
    for attempt in (lambda: spawn(long_child, text), lambda: emit("big", text), lambda: done(text)):
        try:
            attempt()
        except RegrowError as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


async def test_a_value_over_64_mib_is_refused_at_the_call(rt: Runtime) -> None:
    """What is over 64 MiB raises ValueTooLarge that tells the size and the limit, and the body goes on."""
    found = await rt.run(sends_too_much)
    assert len(found) == 3
    for text in found:
        assert text.startswith("ValueTooLarge")
        assert "67,108,864" in text


@agent_process
async def sends_nonsense() -> list[str]:
    found: list[str] = []
    handle = spawn(word, "x")
    for attempt in (
        lambda: spawn(word, object()),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: emit("e", lambda: 0),
        lambda: done({1, object()}),
        lambda: emit("e", float("nan")),
    ):
        try:
            attempt()
        except NotSendable as error:
            found.append(str(error))
    try:
        await handle.call("any", value=object())
    except NotSendable as error:
        found.append(str(error))
    return found


async def test_what_cannot_be_sent_is_not_sendable_at_the_call(rt: Runtime) -> None:
    """spawn, emit, done and call raise NotSendable at once, naming what it was about."""
    spawned, emitted, finished, not_finite, called = await rt.run(sends_nonsense)
    assert "An argument of word()" in spawned
    assert "event 'e'" in emitted
    assert "done()" in finished
    assert "NaN" in not_finite
    assert "any()" in called


@agent_process
async def returns_nonsense() -> Any:
    return object()


async def test_a_result_that_cannot_be_sent_fails_the_process(rt: Runtime) -> None:
    """A body that returns what cannot travel fails with NotSendable that names the process."""
    with pytest.raises(ExecutionFailed, match="returns_nonsense") as caught:
        await rt.run(returns_nonsense)
    assert caught.value.error == "NotSendable"


@agent_process
async def misfits() -> list[str]:
    found: list[str] = []
    try:
        spawn(word)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    except InvalidArguments as error:
        found.append(str(error))
    try:
        await word(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    except ExecutionFailed as error:
        found.append(f"{error.error}: {error.reason}")
    return found


async def test_arguments_that_do_not_fit_are_refused(rt: Runtime) -> None:
    """A missing argument is InvalidArguments at the call; one of another type fails the child, naming the argument."""
    missing, wrong = await rt.run(misfits)
    assert "text" in missing
    assert wrong.startswith("InvalidArguments")
    assert "'text'" in wrong


@agent_process
async def says_much(size: int) -> None:
    @expose
    async def explode() -> None:
        raise ValueError("e" * size)

    emit("ready")
    await wait()


async def test_a_huge_error_text_is_cut_off_and_arrives(rt: Runtime) -> None:
    """An exception with a text of megabytes still reaches the caller, cut off."""
    root = await rt.start(says_much, 3_000_000)
    await event(root, "ready")
    with pytest.raises(CallFailed) as caught:
        await root.call("explode")
    assert isinstance(caught.value, ValueError)
    assert 1000 < len(str(caught.value)) < 100_000
