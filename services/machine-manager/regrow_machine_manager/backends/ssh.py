"""Machines that are folders on hosts which are reached over SSH.

A machine is `~/.regrow/machines/<id>` on its host: a workdir, unless the image names one that is kept, and what
its commands wrote. What it starts are ordinary processes of the login user, not isolated from the host nor each other.
Of a pool of hosts the one with the fewest machines is taken; one that does not answer is passed over.

A snapshot is a copy of the workdir on the same host (reflinked where its file system can), files only, taken while
programs go on. What is restored or forked from it has a workdir of its own, on that host.

Where a machine was made is noted on the node before it is made, so that a creation that was cut off is continued there,
and machines without a record are found.
"""

from __future__ import annotations

import asyncio
import json
import os
import posixpath
from collections.abc import Mapping
from typing import ClassVar

from regrow_protocol.images import SSHImage
from regrow_protocol.machines import Port
from regrow_service.logs import get_logger

from ..backend import BackendUnavailable, Data, MachineFailed, Node, Spawned
from . import _ssh_scripts as scripts
from ._ssh_address import Address, InvalidAddress, from_data, parse
from ._ssh_link import file_credentials
from ._ssh_machines import SSHMachines
from ._ssh_shell import program


class SSHBackend(SSHMachines[SSHImage]):
    """See the module."""

    name: ClassVar[str] = "ssh"
    image: ClassVar[type[SSHImage]] = SSHImage
    anywhere: ClassVar[bool] = True

    def __init__(self, node: Node) -> None:
        super().__init__(node, file_credentials)
        self._notes = node.folder / "made"
        self._log = get_logger("ssh")

    def address(self, data: Data) -> Address:
        return from_data(data["address"])

    # The life of a machine --------------------------------------------------------------------------------------------

    async def spawn(self, machine: str, image: SSHImage, *, load: Mapping[str, int]) -> Spawned:
        refused: list[Exception] = []
        for address in await self._candidates(machine, image, load):
            try:
                return await self._make(machine, address, image, workdir=image.workdir or "")
            except (BackendUnavailable, MachineFailed) as error:
                refused.append(error)
                self._log.warning("passed over a host", host=address.place, machine=machine, error=str(error))
        if len(refused) == 1:
            raise refused[0]
        kind = BackendUnavailable if any(isinstance(e, BackendUnavailable) for e in refused) else MachineFailed
        raise kind(f"None of {len(refused)} hosts took it: " + "; ".join(str(e) for e in refused))

    async def stop(self, data: Data) -> None:
        machine, address = _name(data["machine"]), self.address(data)
        if folder := data.get("folder") or await self._folder(address, machine):
            before = await self._above(data, folder)
            await self.script(address, scripts.STOP, folder, machine, before=before)
        await asyncio.to_thread((self._notes / f"{machine}.json").unlink, missing_ok=True)

    async def made(self) -> dict[str, Data]:
        return await asyncio.to_thread(self._noted)

    # Copies -----------------------------------------------------------------------------------------------------------

    async def snapshot(self, data: Data, snapshot: str) -> Data:
        address = self.address(data)
        base = _base(data)
        before = await self._above(data, data["folder"])
        printed = await self.script(address, scripts.SNAPSHOT, data["real"], _name(snapshot), base, before=before)
        return {
            "address": data["address"],
            "folder": printed.decode(errors="surrogateescape").rstrip("\n"),
            "login": data["login"],
            "uid": data["uid"],
            "base": base,
            "elevated": bool(before),
        }

    async def restore(self, machine: str, image: SSHImage, kept: Data, *, load: Mapping[str, int]) -> Spawned:
        before = await self.becoming(kept, "root") if kept["elevated"] else ()
        return await self._make(machine, from_data(kept["address"]), image, source=kept, before=before)

    async def drop(self, kept: Data) -> None:
        before = await self.becoming(kept, "root") if kept["elevated"] else ()
        await self.script(from_data(kept["address"]), scripts.DROP, kept["folder"], before=before)

    async def fork(self, data: Data, machines: list[str], image: SSHImage) -> list[Spawned]:
        before = await self._above(data, data["folder"])
        source = {**data, "folder": data["real"], "base": _base(data)}
        return [await self._make(m, self.address(data), image, source=source, before=before) for m in machines]

    # Ways in ----------------------------------------------------------------------------------------------------------

    async def expose(self, data: Data, port: int) -> Port:
        """The host's address and the same port. Nothing is forwarded: the program must listen on an address that can be
        reached from outside, and no firewall may stand between.

        Raises:
            MachineFailed: the host is behind a jump host.
        """
        address = self.address(data)
        if address.jump:
            hint = f"forward it: ssh -J {address.jump.user}@{address.jump.place} -L {port}:localhost:{port} …"
            raise MachineFailed(f"{address.host} is only reached through {address.jump.place}", hint=hint)
        return Port(address.host, port)

    def shell(self, data: Data, line: str = "") -> list[str]:
        return program(self.address(data), data["workdir"], line)

    # How --------------------------------------------------------------------------------------------------------------

    async def _candidates(self, machine: str, image: SSHImage, load: Mapping[str, int]) -> list[Address]:
        """The hosts in the order to try them: where it was begun, then the least loaded, those that failed last."""
        entries = list(image.hosts) or ([image.host] if image.host else [])
        if not entries or (image.host and image.hosts):
            raise InvalidAddress("An SSH image has either host= or hosts=[…]", hint="SSHImage('build-1.example')")
        known, key, jump = image.known_hosts, image.key, image.jump
        found = [parse(e, user=image.user, port=image.port, key=key, known_hosts=known, jump=jump) for e in entries]
        noted = (await self.made()).get(machine)
        begun = self.address(noted) if noted else None
        return sorted(found, key=lambda a: (a != begun, self.links.failing(a), load.get(a.place, 0)))

    async def _make(
        self,
        machine: str,
        address: Address,
        image: SSHImage,
        *,
        workdir: str = "",
        source: Data | None = None,
        before: tuple[str, ...] = (),
    ) -> Spawned:
        """Make a machine's folder, or find it.

        Args:
            machine: its id.
            address: of its host.
            image: what from.
            workdir: of the image; empty: one of its own.
            source: what its workdir is a copy of: `folder`, `base` (`~/.regrow` on the host) and `login`.
            before: the program that makes the copy as root.
        """
        if any(ord(c) < 32 or ord(c) == 127 for c in workdir):
            raise InvalidAddress(f"{workdir[:80]!r} is no folder", hint="a path without control characters")
        _name(machine)
        data: Data = {"machine": machine, "address": address.as_data()}
        arguments = [machine, workdir, source["folder"] if source else "", "", ""]
        if source and before:
            arguments[3:] = [posixpath.dirname(source["base"]), source["login"]]
        await asyncio.to_thread(self._note, machine, data)
        printed = await self.script(address, scripts.SPAWN, *arguments, before=before)
        folder, work, real, login, uid = printed.decode(errors="surrogateescape").split("\n")[-6:-1]
        data |= {"folder": folder, "workdir": work, "real": real, "login": login, "uid": int(uid), "env": image.env}
        await asyncio.to_thread(self._note, machine, data)
        return Spawned(data, address.place)

    async def _folder(self, address: Address, machine: str) -> str:
        """The folder of a machine whose creation was cut off; empty when there is none."""
        program = 'cd "$HOME/.regrow/machines/$1" 2>/dev/null && pwd -P || :'
        return (await self.script(address, program, machine)).decode(errors="surrogateescape").rstrip("\n")

    async def _above(self, data: Data, folder: str) -> tuple[str, ...]:
        """The program that runs scripts as root, when programs of this machine ran as others than who logs in."""
        if not data.get("uid"):
            return ()
        program = '[ ! -e "$1/elevated" ] || echo yes'
        return await self.becoming(data, "root") if await self.script(self.address(data), program, folder) else ()

    def _note(self, machine: str, data: Data) -> None:
        self._notes.mkdir(parents=True, exist_ok=True)
        part = self._notes / f".{machine}.{os.getpid()}"
        part.write_text(json.dumps(data))
        part.replace(self._notes / f"{machine}.json")

    def _noted(self) -> dict[str, Data]:
        return {path.stem: json.loads(path.read_text()) for path in self._notes.glob("[!.]*.json")}


def _base(data: Data) -> str:
    """The folder of all machines and snapshots on a machine's host, `~/.regrow`."""
    return posixpath.dirname(posixpath.dirname(data["folder"]))


def _name(name: str) -> str:
    if not scripts.NAME.fullmatch(name):
        raise MachineFailed(f"{name[:80]!r} is no id", hint="letters, digits, and . _ -")
    return name
