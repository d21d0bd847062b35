"""A manager in small, that tests kill: runs one command on a local machine and prints its exit code and output."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from regrow_machine_manager.backend import Node
from regrow_machine_manager.backends.local import LocalBackend
from regrow_machine_manager.commands import Commands
from regrow_protocol.machines import Exec


class Detaching(LocalBackend):
    """Takes the way of machines that are far away."""

    holds = False


async def main(folder: str, machine: str, holds: str, id: str, command: str, stdin: str) -> None:  # noqa: A002
    backend = (LocalBackend if holds == "holds" else Detaching)(Node("here", Path(folder)))
    data = (await backend.made())[machine]
    done = await Commands(backend).run(machine, data, id, Exec(command, stdin=stdin.encode() or None))
    sys.stdout.write(json.dumps([done.exit_code, done.stdout.decode()]))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
