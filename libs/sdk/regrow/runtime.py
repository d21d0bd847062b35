"""`asyncio.run(main("x"))`: a process type called outside any process is a root, and this program is its client.

The session connects to `REGROW_NATS_URL`, or starts the embedded stack when none is set; runs a host for the program;
starts the root and waits for it. Roots that run at the same time share the session. When the program is interrupted the
tree is cancelled.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError, Unreachable

from .client import Client, RemoteProcess
from .definition import ProcessType
from .errors import ExecutionCancelled, ProgramError
from .launcher import HostProcess

CANCEL_GRACE = 10.0


async def stack_url(data: str | None = None) -> str:
    """`REGROW_NATS_URL`, or the URL of the embedded stack, started where it does not run.

    The stack is another program (`regrow_cli.stack`): the SDK composes no services.
    """
    if url := os.environ.get("REGROW_NATS_URL"):
        return url
    argv = [sys.executable, "-m", "regrow_cli.stack", "ensure", *(["--data", data] if data else [])]
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        text = err.decode(errors="replace").strip().splitlines()
        raise Unreachable(
            f"The embedded stack did not start: {text[-1] if text else 'no output'}",
            hint="`regrow doctor` looks for the cause; or set REGROW_NATS_URL to a running server",
        )
    return str(json.loads(out)["url"])


def target_of(type_: ProcessType[Any, Any]) -> str:
    """The program that a process type belongs to: a file's path, or `module:NAME`."""
    name = type_.function.__module__
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if name == "__main__" or "." not in name:
        if file is None:
            raise ProgramError(
                f"{type_.name} is not defined in a file",
                hint="a host must be able to import it: write it to a .py file",
            )
        return str(Path(file).resolve())
    return f"module:{name}"


class Session:
    """A client with a host for one program.

    Attributes:
        client: of the processes.
        host: the launched host.
    """

    def __init__(self, url: str, bus: Bus, host: HostProcess) -> None:
        self.url = url
        self.bus = bus
        self.client = Client(bus)
        self.host = host

    @classmethod
    async def open(
        cls,
        target: str,
        *,
        app: str = "",
        url: str | None = None,
        data: str | None = None,
        prints_to_stderr: bool = False,
    ) -> Session:
        """Connect and start a host for `target`."""
        url = url or await stack_url(data)
        bus = await Bus.connect(url, name="regrow-client")
        try:
            host = HostProcess(target, url, app=app, bus=bus, prints_to_stderr=prints_to_stderr)
            await host.start()
        except BaseException:
            await bus.close()
            raise
        return cls(url, bus, host)

    async def start(
        self,
        type_: str,
        args: Any,
        target: str,
        *,
        name: str = "",
        result_type: Any = Any,
        tags: dict[str, str] | None = None,
        restart: m.Restart = "",
    ) -> RemoteProcess:
        """Start a root on the session's host."""
        ready = self.host.ready
        assert ready is not None
        program = m.Program(target, str(Path.cwd()))
        return await self.client.start(
            ready.app, ready.build, type_, args, name=name, program=program, result_type=result_type, tags=tags,
            restart=restart,
        )  # fmt: skip

    async def result(self, process: RemoteProcess) -> Any:
        """Wait for a process; raises the host's error when it cannot be kept running."""
        waiting = asyncio.ensure_future(process.result())
        await asyncio.wait([waiting, self.host.failed], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            raise self.host.failed.result()
        return await waiting

    async def cancel(self, process: RemoteProcess) -> None:
        """Cancel a tree and wait a while for its end."""
        await process.cancel("interrupted")
        try:
            await process.result(CANCEL_GRACE)
        except (ExecutionCancelled, TimeoutError):
            return

    async def close(self) -> None:
        """Stop the host, gracefully, and the connection; the stack stays."""
        await self.host.stop()
        await self.client.close()
        await self.bus.close()


_sessions: dict[tuple[int, str], tuple[asyncio.Future[Session], list[None]]] = {}


async def run_root(type_: ProcessType[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a process type as a root and return its result."""
    raw = type_.signature.encode(args, kwargs)
    target = target_of(type_)
    key = (id(asyncio.get_running_loop()), target)
    shared = _sessions.get(key)
    if shared is None:
        shared = _sessions[key] = (asyncio.ensure_future(Session.open(target)), [])
    opening, users = shared
    users.append(None)
    try:
        session = await asyncio.shield(opening)
        process = await session.start(type_.name, raw, target, result_type=type_.signature.result)
        try:
            return await session.result(process)
        except asyncio.CancelledError:
            await asyncio.shield(session.cancel(process))
            raise
    finally:
        users.pop()
        if not users:
            _sessions.pop(key, None)
            await asyncio.shield(_close(opening))


async def _close(opening: asyncio.Future[Session]) -> None:
    try:
        session = await opening
    except RegrowError:
        return  # whoever opened it was told
    await session.close()
