"""What a command costs without Regrow: a small program that makes the library's own call again and again.

    python benchmarks/bare.py local|ssh|docker ARGUMENTS

It is a program of its own so that what the benchmark holds in memory does not slow it. For each line with a number on
its standard input it makes so many calls, one after the other, and writes the milliseconds of each as a JSON list.

`local` runs on asyncio's own loop, which starts programs several times as fast as uvloop does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Call = Callable[[], Awaitable[None]]


@asynccontextmanager
async def local(_: dict[str, Any]) -> AsyncIterator[Call]:
    """A program with pipes."""
    pipe = asyncio.subprocess.PIPE

    async def call() -> None:
        process = await asyncio.create_subprocess_exec("sh", "-c", "true", stdin=pipe, stdout=pipe, stderr=pipe)
        assert await process.communicate() == (b"", b"")
        assert process.returncode == 0

    yield call


@asynccontextmanager
async def ssh(arguments: dict[str, Any]) -> AsyncIterator[Call]:
    """`run` on an open connection."""
    import asyncssh

    async with asyncssh.connect(
        arguments["host"],
        arguments["port"],
        username=arguments["user"],
        client_keys=[arguments["key"]],
        known_hosts=arguments["known_hosts"],
        config=None,
    ) as connection:

        async def call() -> None:
            assert (await connection.run("true")).exit_status == 0

        yield call


@asynccontextmanager
async def docker(arguments: dict[str, Any]) -> AsyncIterator[Call]:
    """The three calls of the SDK that run a program in a container of one's own."""
    import docker

    client = docker.APIClient(base_url=arguments["url"], version="auto")
    container = client.create_container(arguments["image"], ["sleep", "infinity"])["Id"]
    try:
        client.start(container)

        async def call() -> None:
            made = client.exec_create(container, ["sh", "-c", "true"])["Id"]
            assert client.exec_start(made, demux=True) == (None, None)
            assert client.exec_inspect(made)["ExitCode"] == 0

        yield call
    finally:
        client.remove_container(container, force=True)
        client.close()


async def main(kind: str, arguments: str) -> None:
    """Serve the lines."""
    async with {"local": local, "ssh": ssh, "docker": docker}[kind](json.loads(arguments)) as call:
        await call()
        while line := sys.stdin.readline():  # nothing else is to be done meanwhile
            taken: list[float] = []
            for _ in range(int(line)):
                began = time.perf_counter()
                await call()
                taken.append((time.perf_counter() - began) * 1000)
            print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "local":
        asyncio.run(main(*sys.argv[1:]))
    else:
        import uvloop

        uvloop.run(main(*sys.argv[1:]))
