"""A shell on an instance of MorphCloud: `python -m regrow_machine_manager.backends.morph_shell HOST PORT KNOWN_HOSTS
INSTANCE WORKDIR LINE`.

It asks the API for the instance's own key (`MORPH_API_KEY`, as the manager does) and runs `ssh` with it, with the
gateway's key checked; the SDK's own program trusts any gateway, and gives it the API key. The instance's key is in
memory only, and goes with this program.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from regrow_protocol.errors import RegrowError

from ._morph_api import CALL_TIMEOUT, calling, make_client
from ._ssh_address import Address
from ._ssh_shell import program


def main(argv: Sequence[str]) -> int:
    """Run the shell to its end; its exit code."""
    host, port, known_hosts, instance, workdir, line = argv
    try:
        private = asyncio.run(_private_key(instance))
    except RegrowError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a program on a terminal
        return 1
    key = os.memfd_create("key", 0)
    os.fchmod(key, 0o600)
    os.write(key, private.encode())
    path = f"/proc/{os.getpid()}/fd/{key}"  # ssh closes what it inherits
    address = Address(host, int(port), instance, known_hosts, path)
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: None)  # of the terminal: they are for ssh
    child = subprocess.Popen(program(address, workdir, line))  # noqa: S603 - checked where they were made
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: child.send_signal(number))
    code = child.wait()
    return code if code >= 0 else 128 - code


async def _private_key(instance: str) -> str:
    client = make_client()
    async with calling(instance, CALL_TIMEOUT):
        return (await (await client.instances.aget(instance)).assh_key()).private_key


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
