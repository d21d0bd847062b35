"""The supervisor as a program: started, asked for its health, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from fleet import Fleet
from regrow_protocol.server import NatsServer

Until = Callable[..., Awaitable[None]]


async def test_it_tells_what_it_does_and_stops_gracefully(
    fleet: Fleet, private_server: NatsServer, until: Until
) -> None:
    """Ready once the hosts are read; metrics of hosts and partitions; a death is one line; SIGTERM ends it with 0."""
    fleet.ttl = 20.0  # nobody expires here
    ttl = str(fleet.ttl)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "regrow_supervisor",
        env={**os.environ, "REGROW_NATS_URL": private_server.url, "REGROW_HOST_TTL": ttl, "REGROW_LOG_FORMAT": "json"},
        stderr=asyncio.subprocess.PIPE,
    )
    lines: list[dict[str, object]] = []

    async def read() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            lines.append(json.loads(line))

    reading = asyncio.create_task(read())
    try:
        one, two = await fleet.host(), await fleet.host()
        await until(lambda: fleet.owned_by(one, two))
        address = str(next(line["health"] for line in lines if line["event"] == "starting"))
        assert (await get(address, "/readyz")).startswith("HTTP/1.1 200")
        async with asyncio.timeout(20):  # what is written is measured a moment later
            while f'regrow_partitions_owned{{app="{fleet.app}"}} 16.0' not in await get(address, "/metrics"):
                await asyncio.sleep(0.01)
        assert f'regrow_hosts{{app="{fleet.app}"}} 2.0' in await get(address, "/metrics")
        await one.leave()
        await until(lambda: any(line["event"] == "host died" for line in lines))
        (death,) = [line for line in lines if line["event"] == "host died"]
        expected = {"service": "supervisor", "host": one.id, "app": fleet.app, "build": "b1", "reason": "deleted"}
        assert expected.items() <= death.items()
        assert death["to"] == {two.id: 8}
        assert f'regrow_takeovers_total{{app="{fleet.app}"}} 8.0' in await get(address, "/metrics")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading
    assert lines[-1]["event"] == "stopped"


async def get(address: str, path: str) -> str:
    """An HTTP answer, head and body."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer.decode()
