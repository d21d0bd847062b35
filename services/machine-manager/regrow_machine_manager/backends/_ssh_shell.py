"""The program `ssh` that opens a shell on a machine, or runs a line there on its terminal."""

from __future__ import annotations

import shlex

from ._ssh_address import Address


def program(address: Address, workdir: str, line: str = "") -> list[str]:
    """Its arguments.

    Args:
        address: of the machine's server.
        workdir: where it begins.
        line: to run instead of a shell.
    """
    what = f"exec sh -c {shlex.quote(line)}" if line else 'exec "${SHELL:-/bin/sh}" -l'
    command = f"cd {shlex.quote(workdir)} && {what}"
    through: list[str] = []
    if address.jump:
        # -J would take neither the key nor the known hosts.
        jump = ["ssh", *_options(address.jump), "-W", "[%h]:%p", "--", address.jump.host]
        through = ["-o", f"ProxyCommand={shlex.join(jump)}"]
    return ["ssh", "-t", *_options(address), *through, "--", address.host, command]


def _options(address: Address) -> list[str]:
    options = ["-p", str(address.port), "-l", address.user]
    options += ["-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={_quoted(address.known_hosts)}"]
    return [*options, "-o", "IdentitiesOnly=yes", "-i", address.key] if address.key else options


def _quoted(path: str) -> str:
    """A path as ssh's own options have it."""
    return f'"{path}"' if " " in path else path
