"""What a handler gives back, or what is given up: neither is lost, and neither blocks."""

from __future__ import annotations

import asyncio
from typing import Any

from regrow_protocol.bus import Received
from regrow_service.consumer import Later
from regrow_service.retry import Retry
from service_commands import Commands, Connect, Until


async def test_a_message_that_is_given_back_is_no_attempt(commands: Commands, until: Until) -> None:
    """It comes again after its delay, more often than it may fail, and is handled in the end."""
    tried: list[Any] = []

    async def handle(body: Any, message: Received) -> None:
        tried.append(body)
        if len(tried) < 10:
            raise Later("busy", delay=0.01)

    commands.start(handle, retry=Retry(attempts=2, first=0.01))
    await commands.send("x")
    await until(lambda: len(tried) == 10)
    labels = {"consumer": f"{commands.service}-commands", "outcome": "done"}
    await until(lambda: commands.metrics.registry.get_sample_value("regrow_messages_handled_total", labels) == 1)
    assert await commands.letters() == []


async def test_what_is_given_up_is_told_before_its_letter(commands: Commands, until: Until) -> None:
    """With the body and the reason; when telling fails, the letter says so."""
    told: list[tuple[Any, str]] = []

    async def handle(body: Any, message: Received) -> None:
        raise ValueError("no")

    async def lost(body: Any, reason: str) -> None:
        told.append((body, reason))
        if body == "mute":
            raise RuntimeError("nobody there")

    commands.start(handle, retry=Retry(attempts=2, first=0.01), lost=lost)
    await commands.send("x")
    await commands.send("mute")
    letters = await commands.buried(2)
    assert sorted(told) == [("mute", "ValueError: no"), ("x", "ValueError: no")]
    assert sorted(letter.letter.reason for letter in letters) == [
        "ValueError: no",
        "ValueError: no; and not answered: RuntimeError: nobody there",
    ]


async def test_without_a_timeout_a_handler_takes_its_time(commands: Commands, until: Until) -> None:
    """And when whoever runs the consumer is cancelled, the message goes to the next one at once."""
    begun = asyncio.Event()
    seen: list[Any] = []

    async def hang(body: Any, message: Received) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def note(body: Any, message: Received) -> None:
        seen.append(body)

    stop = commands.start(hang, timeout=None, ack_wait=60.0)
    await commands.send("x")
    await begun.wait()
    commands.start(note, timeout=None, ack_wait=60.0)
    ending = asyncio.ensure_future(stop())
    await asyncio.sleep(0)
    assert not ending.done()
    assert seen == []
    for task in asyncio.all_tasks():
        if task.get_name().startswith(f"{commands.service}-commands"):
            task.cancel()
    await until(lambda: seen == ["x"])
    await ending


async def test_what_others_gave_back_is_no_attempt_either(commands: Commands, connect: Connect, until: Until) -> None:
    """A message that one replica gave back many times is handled by the next one, and tried again when that fails."""
    given, tried = 0, 0

    async def busy(body: Any, message: Received) -> None:
        nonlocal given
        given += 1
        raise Later("busy", delay=0.01)

    async def handle(body: Any, message: Received) -> None:
        nonlocal tried
        tried += 1
        if tried < 2:
            raise ValueError("not yet")

    stop = commands.start(busy, retry=Retry(attempts=3, first=0.01))
    await commands.send("x")
    await until(lambda: given > 20)
    await stop()
    commands.start(handle, bus=await connect(), retry=Retry(attempts=3, first=0.01))
    await until(lambda: tried == 2)
    assert await commands.letters() == []
