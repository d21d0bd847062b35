"""`Stream` and `Log` of `regrow.ramure`, which behave as ramure's."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from regrow import nested
from regrow.errors import HostLost
from regrow.ramure import Event, Log, Stream
from regrow.ramure.machines import Image, LocalImage, Machine


async def test_each_reader_sees_every_event_from_the_first_to_the_end() -> None:
    """Readers that come early, late or after the end see the same."""
    stream = Stream()
    stream.emit("a", 1)

    async def read() -> list[Event]:
        return [event async for event in stream]

    early = asyncio.ensure_future(read())
    await asyncio.sleep(0)
    stream.emit("b", 2, source="x")
    stream.close()
    assert stream.emit("c") is None
    assert await early == await read() == stream.snapshot() == [Event("a", 1), Event("b", 2, "x")]
    assert (len(stream), stream.closed) == (2, True)


async def test_listening_is_for_what_comes_and_ends_with_none() -> None:
    """By type and condition, with or without what is there; None when it does not come."""
    stream = Stream()
    stream.emit("a", 1)
    assert await stream.listen_for("a", timeout=0.001) is None
    assert await stream.listen_for("a", replay=True) == Event("a", 1)
    waiting = asyncio.ensure_future(stream.listen_for(where=lambda event: event.data == 3))
    await asyncio.sleep(0)
    stream.emit("b", 2)
    stream.emit("b", 3)
    assert await waiting == Event("b", 3)
    stream.close()
    assert await stream.listen_for("c") is None


def test_a_subscriber_that_raises_is_dropped_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Subscribers are called at once, with what is there first; a second unsubscribe does nothing."""
    stream = Stream()
    seen: list[str] = []
    stream.emit("a")
    stop = stream.subscribe(lambda event: seen.append(event.type))
    stream.subscribe(lambda _: 1 / 0)  # type: ignore[arg-type, return-value]
    assert stream.emit("b") == Event("b")
    stop()
    stop()
    stream.emit("c")
    assert seen == ["a", "b"]
    assert len(caplog.records) == 1


def test_a_log_is_numbered_and_written_as_lines(tmp_path: Path) -> None:
    """What JSON cannot say is told by its `repr`."""
    log = Log(tmp_path / "run" / "x.jsonl")
    log.emit("one", {"of": object})
    log.emit("two", origin="agent")
    log.close()
    assert log.emit("three") is None
    lines = [json.loads(line) for line in (tmp_path / "run" / "x.jsonl").read_text().splitlines()]
    assert [(line["seq"], line["type"], line["origin"]) for line in lines] == [
        (1, "one", "server"),
        (2, "two", "agent"),
    ]
    assert lines[0]["data"] == {"of": "<class 'object'>"}
    assert [entry.seq for entry in log.after(1)] == [2]


def test_images_are_known_by_their_ids(tmp_path: Path) -> None:
    """`LocalImage(id=image.id)` is the same one; images and machines without their methods cannot be made."""
    image = LocalImage(tmp_path, env={"A": "1"})
    assert LocalImage(id=image.id).workdir == tmp_path
    for abstract in (Image, Machine):
        with pytest.raises(TypeError):
            abstract()  # type: ignore[abstract]


async def test_a_function_of_another_interpreter_is_stood_in_for_by_one_that_is_lost() -> None:
    """It may not be restarted, and whoever runs it is told why."""
    name = "main.<locals>.inner#0000.1"
    found = nested.find({}, name)
    assert found is not None
    assert (found.options.resume, found.options.max_restarts) == ("restart", 0)
    with pytest.raises(HostLost, match=r"main.<locals>.inner is a function inside another"):
        await found.function(spec="x")
    assert nested.find({}, "inner") is None
