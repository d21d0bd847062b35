"""When a service says that it is ready."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from regrow_protocol.server import NatsServer
from regrow_service.service import Service
from regrow_service.settings import ServiceSettings

Until = Callable[..., Awaitable[None]]


async def test_it_is_not_ready_before_its_tasks_are_made(private_server: NatsServer, until: Until) -> None:
    """It is connected, but the streams are not made yet: its own checks are not there, and nobody may rely on it."""
    service = Service("letters", ServiceSettings(nats_url=private_server.url, health_port=0))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(service.run(lambda: {"work": work(service)}))
        while service.checks["nats"]():
            await asyncio.sleep(0)
        private_server.signal(signal.SIGSTOP)
        status, answer = await readiness(service)
        assert (status, list(answer["wrong"])) == (503, ["start"])
        private_server.signal(signal.SIGCONT)
        await until(lambda: not service.checks["start"](), "its start")
        assert "own" in service.checks
        assert (await readiness(service))[1]["wrong"] == {"own": "not yet"}
        service.stopping.set()
        await running


def work(service: Service[ServiceSettings]) -> Coroutine[Any, Any, Any]:
    """A task that is never ready."""
    service.checks["own"] = lambda: "not yet"
    return service.stopping.wait()


async def readiness(service: Service[ServiceSettings]) -> tuple[int, dict[str, dict[str, str]]]:
    """What `/readyz` says."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.health_port)
    writer.write(b"GET /readyz HTTP/1.1\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), json.loads(body)
