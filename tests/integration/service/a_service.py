"""A service as its users would write one, for the tests that kill and stop whole programs.

`python a_service.py NAME` handles commands to NAME, idempotently: it makes a thing (an entry in the bucket
`regrow_limits`, so that effects are seen from outside), then waits for leave to go on where the command says so, and
replies. It tries each as often as `A_SERVICE_ATTEMPTS` says.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from regrow_protocol import subjects
from regrow_protocol.bus import Received
from regrow_protocol.streams import COMMANDS
from regrow_service import idempotent, service
from regrow_service.consumer import Consumer
from regrow_service.idempotent import Command
from regrow_service.retry import Retry
from regrow_service.service import Service, Tasks
from regrow_service.settings import ServiceSettings, read


class Order(msgspec.Struct):
    """`id` of the command; `wait`: until the key `<id>.go` exists; `crash`: of the program, at every attempt."""

    id: str
    wait: bool = False
    crash: bool = False


def tasks(running: Service[ServiceSettings]) -> Tasks:
    """The service's only task: its consumer."""
    bus = running.bus
    effects = bus.kv("regrow_limits")

    async def handle(order: Order, message: Received) -> None:
        if order.crash:
            os._exit(9)

        async def make() -> str:
            await effects.put(f"{order.id}.begun.{os.getpid()}", b"")
            return f"made by {os.getpid()}"

        async def go() -> bool:
            while await effects.get(f"{order.id}.go") is None:
                await asyncio.sleep(0.02)
            return True

        async def work(command: Command) -> Mapping[str, Any]:
            made = await command.step("make", make, str)
            await effects.put(f"{order.id}.made", made.encode())
            if order.wait:
                await command.step("go", go, bool)
            return {"made": made, "by": os.getpid()}

        reply = await idempotent.handle(effects, f"{order.id}.record", work, dict[str, Any])
        await bus.publish(
            "REGROW_REPLIES", subjects.reply(order.id, 1), msgspec.json.encode(reply), f"{order.id}.reply"
        )

    consumer = Consumer(
        bus,
        running.metrics,
        service=running.name,
        name=f"{running.name}-commands",
        stream=COMMANDS,
        filters=[f"{subjects.command(running.name)}.>"],
        decode=partial(msgspec.json.decode, type=Order),
        handle=handle,
        ack_wait=0.5,
        retry=Retry(attempts=int(os.environ.get("A_SERVICE_ATTEMPTS", "20")), first=0.05),
    )
    return {"commands": consumer.run(running.stopping)}


async def serve(name: str, settings: ServiceSettings, stopping: asyncio.Event) -> None:
    """Run until `stopping` is set."""
    running = Service(name, settings)
    running.stopping = stopping
    await running.run(lambda: tasks(running))


if __name__ == "__main__":
    sys.exit(service.main(sys.argv[1], lambda: read(ServiceSettings), partial(serve, sys.argv[1])))
