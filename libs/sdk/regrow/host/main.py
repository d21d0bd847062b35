"""`regrow-host TARGET`: run a host for a program until SIGTERM.

It starts itself again with a fixed PYTHONHASHSEED: sets of strings must be ordered alike in every replay. When it is
ready it prints one JSON line on stdout, or to `--ready-fd`; with `--with-parent` it ends when its standard input is
closed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import msgspec
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError

from ..program import LoadedProgram, load
from .host import Host, HostOptions

HASH_SEED = "0"


class Ready(msgspec.Struct):
    """The line that a host prints when it is ready."""

    host: str
    app: str
    build: str
    os_pid: int


def main(argv: list[str] | None = None) -> int:
    """Run a host; the exit code."""
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        os.environ["PYTHONHASHSEED"] = HASH_SEED
        os.execv(sys.executable, [sys.executable, "-m", "regrow.host", *(sys.argv[1:] if argv is None else argv)])  # noqa: S606
    parser = argparse.ArgumentParser(prog="regrow-host", description="Run the processes of a program.")
    parser.add_argument("target", help="a Python file, or the name of a module")
    parser.add_argument("--app", default="", help="name of the app (default: the program's name)")
    parser.add_argument("--nats", default=None, help="URL of the NATS server (default: $REGROW_NATS_URL)")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input is closed")
    parser.add_argument("--id", default="", help="its id (default: a new one); two hosts must never have the same")
    parser.add_argument("--ready-fd", type=int, default=1, help="file descriptor for the line that says it is ready")
    parser.add_argument("--log-level", default=os.environ.get("REGROW_LOG_LEVEL", "WARNING"))
    options = parser.parse_args(argv)
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        program = load(options.target)
        hanging = _run(_serve(program, options))
    except RegrowError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201
        return 2
    if hanging:
        # Python would wait for the threads of steps that go on although the host has ended.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _run(coro: Coroutine[Any, Any, bool]) -> bool:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coro)
    return uvloop.run(coro)


async def _serve(program: LoadedProgram, options: argparse.Namespace) -> bool:
    """Whether a step goes on in a thread although the host has ended."""
    url = options.nats or os.environ.get("REGROW_NATS_URL", "")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watching: asyncio.Task[None] | None = None
    bus = await Bus.connect(url or None, name=f"regrow-host-{program.name}")
    try:
        settings = HostOptions.from_environment()
        host = Host(bus, program, app=options.app, url=url, options=settings, host_id=options.id)
        host.failed.add_done_callback(lambda _: stop.set())
        await host.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        ready = Ready(host.id, host.app, host.env.build, os.getpid())
        with contextlib.suppress(BrokenPipeError):  # whoever started it is gone already; `--with-parent` notices too
            os.write(options.ready_fd, msgspec.json.encode(ready) + b"\n")
        if options.ready_fd > 2:
            os.close(options.ready_fd)
        if options.with_parent:
            watching = loop.create_task(_wait_for_parent(stop))
        await stop.wait()
        if watching is not None:
            watching.cancel()
        await host.stop()
        if host.failed.done():
            raise host.failed.result()
        return await host.steps.is_hanging()
    finally:
        await bus.close()


async def _wait_for_parent(stop: asyncio.Event) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while await reader.read(4096):
            pass
    finally:
        transport.close()
        stop.set()
