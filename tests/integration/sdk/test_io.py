"""I/O in a body is refused with an error that names `step()` and `resume="restart"`, and the process fails with it."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from regrow import ExecutionFailed, NotAllowedInBody, agent_process, step
from regrow.testing import Runtime


async def _socket() -> None:
    with socket.socket() as s:
        s.connect(("127.0.0.1", 9))


async def _bind() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))


async def _lookup() -> None:
    socket.getaddrinfo("localhost", 80)


async def _url() -> None:
    urllib.request.urlopen("http://127.0.0.1:9/")


async def _popen() -> None:
    subprocess.run(["true"], check=True)


async def _system() -> None:
    os.system("true")


ATTEMPTS: dict[str, Callable[[], Awaitable[Any]]] = {
    "to_thread": lambda: asyncio.to_thread(len, "x"),
    "run_in_executor": lambda: asyncio.get_running_loop().run_in_executor(None, len, "x"),
    "open_connection": lambda: asyncio.open_connection("127.0.0.1", 9),
    "start_server": lambda: asyncio.start_server(lambda r, w: None, "127.0.0.1", 0),
    "getaddrinfo": lambda: asyncio.get_running_loop().getaddrinfo("localhost", 80),
    "subprocess_exec": lambda: asyncio.create_subprocess_exec("true"),
    "subprocess_shell": lambda: asyncio.create_subprocess_shell("true"),
    "socket": _socket,
    "bind": _bind,
    "lookup": _lookup,
    "url": _url,
    "popen": _popen,
    "system": _system,
}


@agent_process
async def does_io(what: str) -> None:
    await ATTEMPTS[what]()


@pytest.mark.parametrize("what", ATTEMPTS)
async def test_io_in_a_body_fails_it_naming_step_and_restart(rt: Runtime, what: str) -> None:
    """Each kind of I/O raises NotAllowedInBody that says to use step() or resume="restart"."""
    root = await rt.start(does_io, what)
    with pytest.raises(ExecutionFailed) as caught:
        await root.result(30)
    assert caught.value.error == "NotAllowedInBody"
    data = [e.data async for e in root.events()][-1]
    assert data["code"] == "not-allowed-in-body"


@agent_process
async def reads_the_hint() -> list[str]:
    found: list[str] = []
    for name in ("to_thread", "socket", "popen"):
        try:
            await ATTEMPTS[name]()
        except NotAllowedInBody as error:
            found.append(f"{error} {error.hint}")
    return found


async def test_the_error_says_what_to_write_instead(rt: Runtime) -> None:
    """The error that the body gets names step() and resume="restart", and the body may handle it."""
    hints = await rt.run(reads_the_hint)
    assert len(hints) == 3
    for hint in hints:
        assert "step(" in hint
        assert 'resume="restart"' in hint


@agent_process
async def does_it_in_steps() -> list[Any]:
    process = await step(os.system, "true")
    return [process, len(await step(socket.getfqdn, "127.0.0.1")) > 0]


async def test_the_same_io_works_in_a_step(rt: Runtime) -> None:
    """What a body may not do, its steps may."""
    assert await rt.run(does_it_in_steps) == [0, True]
