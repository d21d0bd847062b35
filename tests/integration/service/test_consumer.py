"""The durable consumer on a real server: each message is handled or a dead letter, and none holds up another."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from regrow_protocol import streams, subjects
from regrow_protocol.bus import Bus, Received
from regrow_protocol.server import NatsServer
from regrow_protocol.streams import COMMANDS, DEAD
from regrow_service import dead
from regrow_service.consumer import Rejected
from regrow_service.dead import NoSuchLetter
from regrow_service.retry import Retry
from service_commands import Commands, Connect, Handle, Until

Noted = tuple[list[Any], Handle]


async def test_all_are_handled_by_a_bounded_number_of_hands(commands: Commands, until: Until) -> None:
    """Never more at once than `concurrency`, and no message is left."""
    seen: list[int] = []
    at_once = most = 0

    async def handle(body: int, message: Received) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        seen.append(body)

    for n in range(200):
        await commands.send(n)
    commands.start(handle, concurrency=7)
    await until(lambda: len(seen) == 200)
    assert sorted(seen) == list(range(200))
    assert 1 < most <= 7


async def test_one_hand_keeps_the_order(commands: Commands, noted: Noted, until: Until) -> None:
    """With `concurrency=1` messages are handled in the order of the stream."""
    seen, note = noted
    commands.start(note, concurrency=1)
    for n in range(50):
        await commands.send(n)
    await until(lambda: len(seen) == 50)
    assert seen == list(range(50))


async def test_a_failing_message_is_tried_again_after_growing_delays(commands: Commands, until: Until) -> None:
    """Exponential back-off: each delay is at least half of its whole; the message is handled in the end."""
    times: list[float] = []

    async def handle(body: Any, message: Received) -> None:
        times.append(time.monotonic())
        if len(times) < 4:
            raise ValueError("not yet")

    commands.start(handle, retry=Retry(attempts=5, first=0.1, factor=2.0))
    await commands.send("x")
    await until(lambda: len(times) == 4)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps[0] >= 0.05
    assert gaps[1] >= 0.1
    assert gaps[2] >= 0.2
    assert await commands.letters() == []


async def test_after_the_last_attempt_it_is_a_dead_letter(commands: Commands, until: Until) -> None:
    """With reason and original; the next message is handled meanwhile and afterwards."""
    tried: list[Any] = []

    async def handle(body: Any, message: Received) -> None:
        tried.append(body)
        if body == "bad":
            raise ValueError("no such file")

    commands.start(handle, concurrency=1)
    seq = await commands.send("bad", f"{commands.service}.1")
    await commands.send("good")
    await until(lambda: tried.count("bad") == 3)
    await commands.send("better")
    await until(lambda: "better" in tried)
    (letter,) = await commands.letters()
    original = letter.letter
    assert (original.reason, original.attempts, original.body) == ("ValueError: no such file", 3, b'"bad"')
    assert (original.stream, original.seq, original.subject) == (COMMANDS, seq, f"regrow.command.{commands.service}.do")
    assert original.headers["Nats-Msg-Id"] == f"{commands.service}.1"
    assert abs(original.time - time.time()) < 60
    assert letter.subject == f"regrow.dead.{commands.service}.{commands.service}-commands.{seq}"
    assert "good" in tried


async def test_a_message_that_does_not_decode_is_dead_at_once(commands: Commands, noted: Noted, until: Until) -> None:
    """Poison is not tried again, and what follows is handled."""
    seen, note = noted
    commands.start(note, concurrency=1)
    await commands.send(b"\xff{not json")
    await commands.send(b"")
    await commands.send("fine")
    await until(lambda: seen == ["fine"])
    letters = await commands.letters()
    assert [letter.letter.body for letter in letters] == [b"\xff{not json", b""]
    assert all(letter.letter.attempts == 1 and "does not decode" in letter.letter.reason for letter in letters)


async def test_what_the_handler_rejects_is_dead_at_once(commands: Commands, until: Until) -> None:
    """A handler that knows better says so."""
    tried: list[Any] = []

    async def handle(body: Any, message: Received) -> None:
        tried.append(body)
        raise Rejected("there is no such image", hint="see `regrow images`")

    commands.start(handle)
    await commands.send("x")
    await until(lambda: bool(tried))
    (letter,) = await commands.buried(1)
    assert "there is no such image" in letter.letter.reason
    assert tried == ["x"]


async def test_a_hanging_handler_is_ended_and_counts_as_failed(commands: Commands, until: Until) -> None:
    """Its hand is free again after `timeout`; after the last attempt its message is a dead letter."""

    async def handle(body: Any, message: Received) -> None:
        await asyncio.Event().wait()

    commands.start(handle, timeout=0.05, retry=Retry(attempts=2, first=0.01))
    await commands.send("x")
    (letter,) = await commands.buried(1)
    assert letter.letter.reason == "no end within 0.05 s"


async def test_a_long_handler_keeps_its_message(commands: Commands, until: Until) -> None:
    """Longer than the ack wait: the server is told that it is in progress, and gives it to nobody else."""
    begun: list[int] = []
    finish = asyncio.Event()

    async def handle(body: Any, message: Received) -> None:
        begun.append(message.seq)
        await finish.wait()

    started = time.monotonic()
    commands.start(handle, ack_wait=4.0)
    await commands.send("x")
    await until(lambda: time.monotonic() - started > 6.0)
    finish.set()
    second = await commands.send("y")
    await until(lambda: second in begun)
    assert len(begun) == 2


async def test_two_replicas_share(commands: Commands, connect: Connect, until: Until) -> None:
    """Each message goes to one of them, and both get some."""
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def handler(name: str) -> Handle:
        async def handle(body: int, message: Received) -> None:
            seen[name].append(body)
            await asyncio.sleep(0)

        return handle

    commands.start(handler("a"), bus=await connect(), concurrency=4)
    commands.start(handler("b"), bus=await connect(), concurrency=4)
    sent = 0
    while not (seen["a"] and seen["b"] and sent >= 100):
        await commands.send(sent)
        sent += 1
        assert sent < 5000, "one replica gets nothing"
    await until(lambda: len(seen["a"]) + len(seen["b"]) >= sent)
    assert sorted(seen["a"] + seen["b"]) == list(range(sent))


async def test_stopping_finishes_what_is_in_hand(commands: Commands, noted: Noted, until: Until) -> None:
    """Nothing more is fetched; what was not begun goes to the next consumer."""
    begun: list[Any] = []
    finish = asyncio.Event()
    seen, note = noted

    async def handle(body: Any, message: Received) -> None:
        begun.append(body)
        await finish.wait()
        seen.append(body)

    stop = commands.start(handle, concurrency=2)
    for n in range(5):
        await commands.send(n)
    await until(lambda: len(begun) == 2)
    ending = asyncio.ensure_future(stop())
    await asyncio.sleep(0)
    assert not ending.done()
    finish.set()
    await ending
    assert sorted(seen) == [0, 1]
    commands.start(note)
    await until(lambda: sorted(seen) == [0, 1, 2, 3, 4])


async def test_a_dead_letter_is_replayed(commands: Commands, until: Until) -> None:
    """The original comes again with its own headers and a derived id; the letter is gone and not replayed twice."""
    mended = False
    got: list[Received] = []

    async def handle(body: Any, message: Received) -> None:
        if not mended:
            raise ValueError("broken")
        got.append(message)

    commands.start(handle, retry=Retry(attempts=1))
    subject = subjects.command(commands.service, "do")
    await commands.bus.publish(COMMANDS, subject, b'"x"', commands.service, headers={"traceparent": "00-1-2-03"})
    (letter,) = await commands.buried(1)
    mended = True
    assert await dead.show(commands.bus, letter.seq) == letter
    assert await dead.replay(commands.bus, letter.seq) == letter
    await until(lambda: bool(got))
    assert (got[0].data, got[0].subject, got[0].header("traceparent")) == (b'"x"', subject, "00-1-2-03")
    assert got[0].header("Nats-Msg-Id") == f"{commands.service}.replay.{letter.seq}"
    assert await commands.letters() == []
    with pytest.raises(NoSuchLetter):
        await dead.replay(commands.bus, letter.seq)


async def test_an_original_too_large_for_a_letter_is_replayed_from_its_stream(commands: Commands, until: Until) -> None:
    """A body that does not fit into JSON within the server's limit stays where it is."""
    sizes: list[int] = []
    mended = False

    async def handle(body: str, message: Received) -> None:
        if not mended:
            raise ValueError("broken")
        sizes.append(len(body))

    commands.start(handle, retry=Retry(attempts=1))
    await commands.send("x" * 1_000_000)
    (letter,) = await commands.buried(1)
    assert letter.letter.body == b""
    mended = True
    await dead.replay(commands.bus, letter.seq)
    await until(lambda: sizes == [1_000_000])


async def test_a_broken_letter_does_not_hide_the_others(commands: Commands) -> None:
    """What does not decode in the stream of dead letters is listed as that."""
    subject = subjects.dead(commands.service, "x", "1")
    await commands.bus.publish(DEAD, subject, b"junk", commands.bus.fresh_id())
    (letter,) = await commands.letters()
    assert "does not decode" in letter.letter.reason
    with pytest.raises(NoSuchLetter):
        await dead.replay(commands.bus, letter.seq)


async def test_a_letter_is_written_once(commands: Commands, bus: Bus) -> None:
    """A replica that died between the letter and taking off the original leaves a letter; the next one sees it."""
    message = Received("regrow.command.x.do", 7, time.time(), b"body")
    for _ in range(3):
        await dead.bury(bus, commands.service, "c", COMMANDS, message, "reason", 3)
    assert len(await commands.letters()) == 1
    other = Received("regrow.command.x.do", 7, time.time() + 5, b"of another life of the stream")
    await dead.bury(bus, commands.service, "c", COMMANDS, other, "reason", 3)
    assert len(await commands.letters()) == 2


async def test_what_happens_is_counted(commands: Commands, until: Until) -> None:
    """By outcome; with the time taken, and what is in hand."""

    async def handle(body: Any, message: Received) -> None:
        if body == "bad":
            raise ValueError("no")

    commands.start(handle, retry=Retry(attempts=2, first=0.01))
    await commands.send("good")
    await commands.send("bad")
    name = f"{commands.service}-commands"

    def count(outcome: str) -> float | None:
        labels = {"consumer": name, "outcome": outcome}
        return commands.metrics.registry.get_sample_value("regrow_messages_handled_total", labels)

    await until(lambda: (count("dead"), count("done")) == (1, 1))
    assert count("retried") == 1
    sample = commands.metrics.registry.get_sample_value
    assert sample("regrow_handling_seconds_count", {"consumer": name}) == 3
    await until(lambda: sample("regrow_messages_in_hand", {"consumer": name}) == 0)


async def test_a_killed_server_loses_nothing(private_server: NatsServer, until: Until) -> None:
    """Consuming goes on by itself after the server was killed; every message is handled."""
    seen: set[int] = set()

    async def handle(body: int, message: Received) -> None:
        seen.add(body)

    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(await Bus.connect(private_server.url, name="test"))
        await streams.ensure(bus)
        commands = Commands(bus, "restarted", stack)
        commands.start(handle)
        for n in range(20):
            await commands.send(n)
        await until(lambda: len(seen) == 20)
        await asyncio.to_thread(private_server.kill)
        await asyncio.to_thread(private_server.restart)
        for n in range(20, 40):
            await commands.send(n)
        await until(lambda: len(seen) == 40)
        assert await commands.letters() == []
