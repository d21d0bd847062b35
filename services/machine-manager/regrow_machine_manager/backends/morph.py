"""Virtual machines of MorphCloud, by its SDK's asynchronous calls; programs and files go over SSH through its gateway.

What must be known of a machine stands in its instance's metadata (`regrow.machine`, `regrow.node`, `regrow.store`) from
its start on: one whose creation was cut off is found again, and one without a record too. Snapshots hold memory and
disk, so what ran goes on in what is restored or forked.

Environment: `MORPH_API_KEY`, `MORPH_BASE_URL`, `MORPH_SSH_HOSTNAME` and `MORPH_SSH_PORT`, as the SDK has them, and
`REGROW_MORPH_KNOWN_HOSTS`, the file with the gateway's key (`~/.ssh/known_hosts`). The SDK itself trusts any gateway.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from regrow_protocol.images import MorphImage, size
from regrow_protocol.machines import Port

from ..backend import BackendUnavailable, Data, MachineFailed, MachineLost, Node, Spawned
from . import _ssh_scripts as scripts
from ._morph_api import CALL_TIMEOUT, START_TIMEOUT, calling, make_client, megabytes
from ._morph_recipe import Recipes
from ._ssh_address import Address
from ._ssh_link import LoginRefused, load_asyncssh
from ._ssh_machines import SSHMachines

if TYPE_CHECKING:
    from morphcloud.api import Instance, MorphCloudClient

FORK_SNAPSHOT = 3600
"""Seconds after which MorphCloud removes the snapshot that forks were started from."""


class MorphBackend(SSHMachines[MorphImage]):
    """See the module."""

    name: ClassVar[str] = "morph"
    image: ClassVar[type[MorphImage]] = MorphImage
    anywhere: ClassVar[bool] = True

    def __init__(self, node: Node) -> None:
        super().__init__(node, self._credentials)
        self._opened: MorphCloudClient | None = None
        known = os.environ.get("REGROW_MORPH_KNOWN_HOSTS") or "~/.ssh/known_hosts"
        self._known_hosts = str(Path(known).expanduser())
        self._recipes = Recipes(self)

    async def open(self) -> None:
        await super().open()
        self._opened = await asyncio.to_thread(make_client)

    async def close(self) -> None:
        await super().close()
        if self._opened is not None:
            # The SDK has no way to close its clients.
            await self._opened._async_http_client.aclose()
            self._opened._http_client.close()
            self._opened = None

    @property
    def client(self) -> MorphCloudClient:
        """The SDK's client."""
        if self._opened is None:
            raise BackendUnavailable("The backend morph is not open")
        return self._opened

    def address(self, data: Data) -> Address:
        return self.gateway(data["instance"])

    def gateway(self, instance: str) -> Address:
        """Where an instance is reached over SSH."""
        return Address(self.client.ssh_hostname, int(self.client.ssh_port), instance, self._known_hosts)

    # The life of a machine --------------------------------------------------------------------------------------------

    async def spawn(self, machine: str, image: MorphImage, *, load: Mapping[str, int]) -> Spawned:
        if found := await self._find(machine):
            return await self._ready(machine, image, found)
        if image.id and image.recipe:
            raise MachineFailed("A Morph image has either id= or recipe=[…]", hint="MorphImage(id='snapshot_…')")
        if image.id is None:
            return await self._start(machine, image, await self._recipes.build(image))
        ordinary = MorphImage()
        if (image.vcpus, image.memory, image.disk) == (ordinary.vcpus, ordinary.memory, ordinary.disk):
            return await self._start(machine, image, image.id)
        async with calling(machine):
            started = await self.client.instances.aboot(
                image.id,
                vcpus=image.vcpus,
                memory=megabytes(image.memory),
                disk_size=megabytes(image.disk),
                metadata=self._metadata(machine),
            )
        return await self._ready(machine, image, started)

    async def stop(self, data: Data) -> None:
        instances = {found.id for found in await self._all(machine=data["machine"])} | {data["instance"]}
        for instance in instances:
            await self.end(instance)

    async def end(self, instance: str) -> None:
        """Stop an instance; one that is gone already is fine."""
        await self.links.drop(self.gateway(instance))
        try:
            async with calling(instance):
                await self.client.instances.astop(instance)
        except MachineLost:
            return

    async def made(self) -> dict[str, Data]:
        found = await self._all(node=self.node.name, store=self.node.store)
        return {
            machine: {"machine": machine, "instance": instance.id}
            for instance in found
            if (machine := instance.metadata.get("regrow.machine"))
        }

    def memory(self, image: MorphImage) -> int:
        return size(image.memory)

    # Copies -----------------------------------------------------------------------------------------------------------

    async def snapshot(self, data: Data, snapshot: str) -> Data:
        return {"snapshot": await self._snapshot(data, {"regrow.snapshot": snapshot})}

    async def restore(self, machine: str, image: MorphImage, kept: Data, *, load: Mapping[str, int]) -> Spawned:
        if found := await self._find(machine):
            return await self._ready(machine, image, found)
        return await self._start(machine, image, kept["snapshot"])

    async def drop(self, kept: Data) -> None:
        try:
            async with calling(kept["snapshot"]):
                await (await self.client.snapshots.aget(kept["snapshot"])).adelete()
        except MachineLost:
            return

    async def fork(self, data: Data, machines: list[str], image: MorphImage) -> list[Spawned]:
        """One snapshot, and an instance of it for each. (`branch` gives instances without metadata: cut off before they
        had theirs, they would run for ever unknown.)"""
        found = [await self._find(machine) for machine in machines]
        if not all(found):
            kept = await self._snapshot(data, {"regrow.fork": machines[0]}, ttl=FORK_SNAPSHOT)
        else:
            kept = ""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._ready(machine, image, there) if there else self._start(machine, image, kept))
                for machine, there in zip(machines, found, strict=True)
            ]
        return [task.result() for task in tasks]

    # Ways in ----------------------------------------------------------------------------------------------------------

    async def expose(self, data: Data, port: int) -> Port:
        """The address of MorphCloud's HTTPS proxy for the port, which carries HTTP and WebSockets only, to anybody."""
        name = f"port-{port}"
        async with calling(data["instance"]):
            instance = await self.client.instances.aget(data["instance"])
            there = [service.url for service in instance.networking.http_services if service.name == name]
            url = there[0] if there else await instance.aexpose_http_service(name, port)
        parts = urlsplit(url)
        return Port(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))

    def shell(self, data: Data, line: str = "") -> list[str]:
        """A program of ours (`morph_shell`), which needs `MORPH_API_KEY` as the manager does."""
        address = self.address(data)
        module = f"{__package__}.morph_shell"
        where = [address.host, str(address.port), address.known_hosts, data["instance"], data["workdir"], line]
        return [sys.executable, "-m", module, *where]

    # How --------------------------------------------------------------------------------------------------------------

    def _metadata(self, machine: str) -> dict[str, str]:
        return {"regrow.machine": machine, "regrow.node": self.node.name, "regrow.store": self.node.store}

    async def _all(self, **wanted: str) -> list[Instance]:
        async with calling("instances"):
            found = await self.client.instances.alist(metadata={f"regrow.{k}": v for k, v in wanted.items()})
        return sorted(found, key=lambda instance: (instance.created, instance.id))

    async def _find(self, machine: str) -> Instance | None:
        """The instance of a machine whose creation was begun before."""
        found = [i for i in await self._all(machine=machine) if i.status.value != "error"]
        return found[0] if found else None

    async def _start(self, machine: str, image: MorphImage, snapshot: str) -> Spawned:
        async with calling(snapshot, START_TIMEOUT + CALL_TIMEOUT):
            started = await self.client.instances.astart(
                snapshot, metadata=self._metadata(machine), timeout=START_TIMEOUT
            )
        return await self._ready(machine, image, started)

    async def _ready(self, machine: str, image: MorphImage, instance: Instance) -> Spawned:
        async with calling(instance.id, START_TIMEOUT + CALL_TIMEOUT):
            await instance.await_until_ready(timeout=START_TIMEOUT)
        await self.reach(instance.id)
        printed = await self.script(self.gateway(instance.id), scripts.SPAWN, machine, image.workdir, "", "", "")
        folder, work, real, login, uid = printed.decode(errors="surrogateescape").split("\n")[-6:-1]
        data: Data = {"machine": machine, "instance": instance.id, "folder": folder, "workdir": work, "real": real}
        return Spawned({**data, "login": login, "uid": int(uid), "env": image.env})

    async def reach(self, instance: str) -> None:
        """Wait until the gateway lets us in: an instance is ready a little before its SSH server is."""
        deadline = asyncio.get_running_loop().time() + CALL_TIMEOUT
        while True:
            try:
                await self.links.run(self.gateway(instance), "true")
            except (BackendUnavailable, LoginRefused):
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.2)
            else:
                return

    async def _snapshot(self, data: Data, metadata: dict[str, str], ttl: int | None = None) -> str:
        """The id of the snapshot with this metadata, which is made unless it is there."""
        async with calling(data["instance"], START_TIMEOUT + CALL_TIMEOUT):
            found = await self.client.snapshots.alist(metadata=metadata)
            if found:
                made = min(found, key=lambda snapshot: (snapshot.created, snapshot.id))
            else:
                instance = await self.client.instances.aget(data["instance"])
                made = await instance.asnapshot(metadata=metadata, ttl_seconds=ttl)
            await made.await_until_ready(timeout=START_TIMEOUT)
        return made.id

    async def _credentials(self, address: Address) -> dict[str, Any]:
        """The instance's own key, which the API gives; a paused instance goes on."""
        async with calling(address.user, START_TIMEOUT + CALL_TIMEOUT):
            instance = await self.client.instances.aget(address.user)
            if instance.status.value == "paused":
                await instance.aresume()
                await instance.await_until_ready(timeout=START_TIMEOUT)
            key = await instance.assh_key()
        private = load_asyncssh().import_private_key(key.private_key)
        return {"client_keys": [private], "agent_path": None}
