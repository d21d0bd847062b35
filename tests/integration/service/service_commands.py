"""Commands to a service that only one test knows, and consumers of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec
from regrow_protocol import subjects
from regrow_protocol.bus import Bus, Received
from regrow_protocol.ids import new_id
from regrow_protocol.streams import COMMANDS
from regrow_service import dead
from regrow_service.consumer import Consumer
from regrow_service.dead import Letter
from regrow_service.metrics import Metrics
from regrow_service.retry import Retry

Handle = Callable[[Any, Received], Awaitable[None]]
Connect = Callable[..., Awaitable[Bus]]
Until = Callable[..., Awaitable[None]]


@dataclass
class Commands:
    """Commands to one service, and consumers of them."""

    bus: Bus
    service: str
    stack: AsyncExitStack
    metrics: Metrics = field(default_factory=Metrics)

    async def send(self, body: Any, msg_id: str = "") -> int:
        """Publish a command; its sequence. Bytes go as they are."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        subject = subjects.command(self.service, "do")
        return (await self.bus.publish(COMMANDS, subject, data, msg_id or new_id("x"))).seq

    def start(self, handle: Handle, *, bus: Bus | None = None, **options: Any) -> Callable[[], Awaitable[None]]:
        """Run a consumer until the end of the test, or until what is returned is called, which stops it gracefully."""
        consumer = Consumer(
            bus or self.bus,
            self.metrics if bus is None else Metrics(),
            service=self.service,
            name=f"{self.service}-commands",
            stream=COMMANDS,
            filters=[f"{subjects.command(self.service)}.>"],
            decode=msgspec.json.decode,
            handle=handle,
            # nothing is delivered again because this computer stood still for a moment: that would be an attempt
            **{"retry": Retry(attempts=3, first=0.02, longest=1.0), "ack_wait": 10.0, **options},
        )
        stopping = asyncio.Event()
        task = asyncio.create_task(consumer.run(stopping))

        async def stop() -> None:
            stopping.set()
            await asyncio.wait_for(task, 20)

        self.stack.push_async_callback(stop)
        return stop

    async def letters(self) -> list[Letter]:
        """The dead letters of the service."""
        return [letter async for letter in dead.letters(self.bus, self.service)]

    async def buried(self, count: int) -> list[Letter]:
        """The dead letters, once there are `count`."""
        async with asyncio.timeout(20):
            while len(letters := await self.letters()) < count:
                await asyncio.sleep(0.01)
        return letters
