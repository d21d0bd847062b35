"""Refuses blocking I/O in the turn of a body: sockets and subprocesses that asyncio does not see.

An audit hook (PEP 578), installed once by the first host of an interpreter. Steps and `restart` bodies run on other
loops or in threads, where it lets everything pass.
"""

from __future__ import annotations

import sys
from asyncio import events
from typing import Any

from .errors import NotAllowedInBody
from .loop import DeterministicLoop

_REFUSED = {
    "socket.connect": "connecting a socket",
    "socket.bind": "binding a socket",
    "socket.getaddrinfo": "looking up a host name",
    "subprocess.Popen": "starting a subprocess",
    "os.system": "os.system()",
    "os.posix_spawn": "starting a subprocess",
    "os.fork": "os.fork()",
}

_installed = False


def _hook(event: str, _args: tuple[Any, ...], refused: dict[str, str] = _REFUSED) -> None:
    what = refused.get(event)  # an argument, for at the end of the interpreter a module's names are None
    if what is not None and isinstance(events._get_running_loop(), DeterministicLoop):
        raise NotAllowedInBody(
            f"{what} is not possible in the body of a process: the body is replayed, so it may do no I/O of its own",
            hint='do it in `await step(function, …)`, or decorate with @agent_process(resume="restart")',
        )


def install() -> None:
    """Install the hook, once."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_hook)
