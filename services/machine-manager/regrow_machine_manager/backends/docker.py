"""Machines that are containers of the node's Docker engine.

A machine is a container named `regrow-<id>`, so that making it again finds it, with labels that say whose it is. It
runs nothing but a `sleep` below an init process; commands are started in it by the engine. It outlives the manager;
when it merely stopped (the engine restarted, its first process was killed) the next call starts it again with its
files, and only one that was removed is lost.

Commands of `user="agent"` run as the image's `user`, else as `agent` where the container has one, else as the container
image's own user; it is looked up once, in /etc/passwd. No process gains privileges by setuid programs. Variables of
`env` stand in the container's configuration, so whoever may ask the engine sees them, and so do its snapshots.

A snapshot is an image `regrow-snapshot:<id>`; volumes, and with them the output of commands, are not in it. Its layers
go with the last machine that was made from it. A port is reached at the container's address on its network, from the
node: ports cannot be published after a container was made. Where those addresses are not reached (an engine on another
host, or in a virtual machine) there are none.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import structlog
from regrow_protocol.errors import RegrowError
from regrow_protocol.images import DockerImage, size
from regrow_protocol.machines import Port

from ..backend import (
    Backend,
    BackendUnavailable,
    Completed,
    Data,
    MachineFailed,
    MachineLost,
    Node,
    Spawned,
    Unsupported,
)
from . import _docker_access as access
from . import _docker_files as files
from . import _docker_options as options
from ._docker_engine import Engine, Interrupted, failed
from ._docker_freezing import Freezing
from ._docker_images import Found, ImageMissing, Images
from ._docker_sdk import docker
from ._docker_setup import Setup
from ._docker_users import User

_ROOT = (0, 0)

_FROZEN = 120.0
"""Seconds to wait for a container that is paused, as it is while it is snapshotted."""

_REFUSALS = 3
"""Times that the engine may refuse to run a program in a container that runs."""

_AFTER_KILL = (0.0, 0.05, 0.1, 0.2)
"""Seconds between looks at a container in which a program was killed."""

_TAKEN = 30
"""Looks at a name that is taken by a container that is not there, for some 9 seconds in all."""

log = structlog.get_logger(__name__)


class DockerBackend(Backend[DockerImage]):
    """Containers."""

    name: ClassVar[str] = "docker"
    image: ClassVar[type[DockerImage]] = DockerImage

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._engine = Engine()
        self._images = Images(self._engine)
        self._setup = Setup(self._engine)
        self._freezing = Freezing(node.folder)
        self._commits: set[asyncio.Task[Data]] = set()

    async def open(self) -> None:
        await self._engine.open()
        await self._images.sweep_all(self._ours())

    async def close(self) -> None:
        if self._commits:
            await asyncio.wait(self._commits, timeout=_FROZEN)
        await self._engine.close()

    # Machines ---------------------------------------------------------------------------------------------------------

    async def spawn(self, machine: str, image: DockerImage, *, load: Mapping[str, int]) -> Spawned:
        await self._check(image)
        return await self._make(machine, image, await self._images.get(image))

    async def restore(self, machine: str, image: DockerImage, kept: Data, *, load: Mapping[str, int]) -> Spawned:
        await self._check(image)
        found = await self._images.find(kept["image"])
        if found is None:
            raise ImageMissing(f"The snapshot {kept['image']} is gone", hint="it was dropped, or removed in Docker")
        return await self._make(machine, image, found, User(kept["user"], *kept["ids"]))

    async def _check(self, image: DockerImage) -> None:
        options.check(image)
        driver = image.network
        if driver not in access.COMMON and not self.node.host_network:  # the host's has an id, too
            try:
                driver = (await self._engine.call(lambda c: c.inspect_network(image.network)))["Driver"]
            except docker.errors.APIError as error:
                raise failed(f"Docker does not know the network {image.network!r}", error) from error
        access.check(image, driver, self.node.volumes, self.node.host_network)

    async def _make(self, machine: str, image: DockerImage, found: Found, kept: User | None = None) -> Spawned:
        """Make the container, or find it, and start it when all is in place; of a snapshot, `kept` is its user."""
        name = f"regrow-{machine}"
        data: Data = {"container": name, "workdir": image.workdir, "env": dict(image.env)}
        if kept:
            data["layer"] = found["Id"]
        before = await self._create(machine, image, found, data.get("layer", ""))
        complete = before is not None and before["State"]["Status"] != "created"
        try:
            user = kept or await self._setup.user(name, image.user, found)
            data |= {"user": user.name, "ids": [user.uid, user.gid]}
            if not complete:
                await self._setup.folders(name, image.workdir, user)
            await self._engine.call(lambda c: c.start(name))
        except (docker.errors.APIError, MachineFailed) as error:
            if not complete:
                await self.stop(data)  # it cannot run: it is of no use to anybody
            if isinstance(error, docker.errors.APIError):
                raise failed(f"Docker does not start a container of {image.image}", error) from error
            raise
        return Spawned(data)

    async def _create(self, machine: str, image: DockerImage, found: Found, layer: str) -> dict[str, Any] | None:
        """Create the container; the one that is there already, or None."""
        name = f"regrow-{machine}"
        labels = {**self._labels(machine, layer), "regrow.image": image.image}
        for attempt in range(_TAKEN):
            try:
                await self._engine.call(
                    lambda c: c.create_container_from_config(options.create(c, image, found["Id"], labels), name)
                )
            except docker.errors.APIError as error:
                if error.status_code != 409:
                    raise failed(f"Docker makes no container of {image.image}", error) from error
            else:
                return None
            there = await self._container(name)
            if there is not None:
                if there["Config"]["Labels"].get(options.MACHINE) != machine:
                    raise MachineFailed(f"There is a container {name} that is not Regrow's", hint="remove it")
                return there
            await asyncio.sleep(0.02 * attempt)  # its name is taken, by one that is made or removed just now
        raise BackendUnavailable(f"Docker does not say what became of {name}", hint="try again")

    async def stop(self, data: Data) -> None:
        name = data["container"]
        try:
            await self._engine.call(lambda c: c.remove_container(name, force=True, v=True), slow=True)
        except docker.errors.APIError as error:
            if error.status_code == 409:  # its removal is under way
                await self._engine.call(lambda c: _until_gone(c, name))
            elif error.status_code != 404:
                raise failed(f"Docker does not remove {name}", error) from error
        self._freezing.forget(name)
        if layer := data.get("layer"):
            await self._images.sweep(layer)

    async def attach(self, data: Data) -> bool:
        return await self._revive(data["container"])

    async def made(self) -> dict[str, Data]:
        found = await self._engine.call(lambda c: c.containers(all=True, filters={"label": self._ours()}))
        made: dict[str, Data] = {}
        for container in found:
            machine, layer = (container["Labels"].get(label, "") for label in (options.MACHINE, options.LAYER))
            if f"/regrow-{machine}" in container["Names"]:  # not one that a user made from a snapshot
                made[machine] = {"container": f"regrow-{machine}", **({"layer": layer} if layer else {})}
        return made

    # Programs and files -----------------------------------------------------------------------------------------------

    async def exec(self, data: Data, argv: list[str], *, user: str = "agent", stdin: bytes = b"") -> Completed:
        container, who = data["container"], _user(data, user)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FROZEN
        delay, refused = 0.02, 0
        while True:
            try:
                async with self._freezing.starting(container) as lock:
                    started = partial(self._freezing.started, lock)
                    done = await self._engine.run(container, argv, user=who, stdin=stdin, started=started)
            except Interrupted:
                if await self._container(container) is None:
                    raise _lost(container) from None
                raise
            except docker.errors.APIError as error:
                # No program was started: its container stopped, is paused, starts or ends; or it is the arguments.
                refused += error.status_code not in (404, 409)
                if refused > _REFUSALS:
                    raise failed(f"Docker runs no program in {container}", error) from error
                if not await self._revive(container):
                    raise _lost(container) from error
                if loop.time() > deadline:
                    raise BackendUnavailable(f"{container}: {error.explanation}", hint="unpause it") from error
                await asyncio.sleep(delay)
                delay = min(delay * 1.5, 1.0)
                continue
            return await self._told(done, container, who)

    async def _told(self, done: Completed, container: str, user: str) -> Completed:
        """What the engine says in a program's place, told apart from what programs say."""
        if done.exit_code == 137:  # killed, maybe with its container, which the engine learns a little later
            for delay in _AFTER_KILL:
                await asyncio.sleep(delay)
                now = await self._container(container)
                if now is None:
                    raise _lost(container)
                if not now["State"]["Running"]:
                    raise Interrupted(f"{container} stopped while a program ran", hint="it may have run; try again")
        if done.exit_code in (126, 127) and not done.stderr:
            if done.stdout.startswith((b"unable to find user", b"unable to find group")):
                raise MachineFailed(f"{container} has no user {user!r}", hint="give one that its image has")
            if done.stdout.startswith(b"OCI runtime exec failed"):
                return Completed(127 if b"not found" in done.stdout else 126, b"", done.stdout)
        return done

    async def write(
        self, data: Data, path: str, content: bytes, *, mode: int | None = None, user: str = "agent"
    ) -> None:
        octal = "" if mode is None else f"{mode:o}"
        argv = ["sh", "-c", files.WRITE, "write", path, secrets.token_hex(8), octal, str(len(content))]
        files.check(await self.exec(data, argv, user=user, stdin=content), path)

    async def stage(self, data: Data, name: str, content: bytes, *, user: str = "agent") -> str:
        """By an archive, which the engine unpacks as root: so into the one folder that no user can have exchanged for a
        link, and never to where the file belongs (ADR 0015)."""
        owner = _ROOT if user == "root" else tuple(data["ids"]) if user in ("agent", data["user"]) else None
        if owner is None:
            return ""
        container, packed = data["container"], await asyncio.to_thread(files.archive, name, content, owner)
        try:
            await self._engine.call(lambda c: c.put_archive(container, options.STATE, packed), slow=True)
        except docker.errors.APIError as error:
            if error.status_code == 404:
                raise _lost(container) from error
            raise failed(f"Docker puts no file into {container}", error) from error
        return f"{options.STATE}/{name}"

    async def read(
        self, data: Data, path: str, *, user: str = "agent", offset: int = 0, limit: int | None = None
    ) -> bytes:
        argv = ["sh", "-c", files.READ, "read", path, str(offset), "" if limit is None else str(limit)]
        done = await self.exec(data, argv, user=user)
        files.check(done, path)
        return done.stdout

    # Where things are -------------------------------------------------------------------------------------------------

    def workdir(self, data: Data) -> str:
        return data["workdir"]

    def root(self, data: Data) -> str:
        return "/"

    def state(self, data: Data) -> str:
        return options.STATE

    def memory(self, image: DockerImage) -> int:
        return 0 if image.memory is None else size(image.memory)

    def shell(self, data: Data, line: str = "") -> list[str]:
        engine = ["-H", self._engine.url] if self._engine.url else []
        user = ["-u", data["user"], "-w", data["workdir"]]
        start = line or "command -v bash >/dev/null && exec bash -l; exec sh -l"
        return ["docker", *engine, "exec", "-it", *user, data["container"], "sh", "-c", start]

    async def expose(self, data: Data, port: int) -> Port:
        found = await self._container(data["container"])
        if found is None:
            raise _lost(data["container"])
        if self._engine.remote:
            raise Unsupported("Docker is on another host", hint="run a manager there")
        if found["HostConfig"]["NetworkMode"] == "host":
            return Port("127.0.0.1", port)
        networks = found["NetworkSettings"]["Networks"].values()
        address = next((n["IPAddress"] for n in networks if n["IPAddress"]), None)
        if address is None:
            raise Unsupported(f"{data['container']} has no network", hint="make it with a network")
        return Port(address, port)

    # Snapshots --------------------------------------------------------------------------------------------------------

    async def snapshot(self, data: Data, snapshot: str) -> Data:
        # The engine does not stop because its caller gives up: no program may start until it has ended.
        task = asyncio.create_task(self._commit(data, snapshot))
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        return await asyncio.shield(task)

    async def _commit(self, data: Data, snapshot: str) -> Data:
        container = data["container"]
        try:
            async with self._freezing.freezing(container):
                name, found = await self._images.commit(container, snapshot, self._labels("", ""))
        except docker.errors.APIError as error:
            if error.status_code == 404:
                raise _lost(container) from error
            raise failed(f"Docker does not commit {container}", error) from error
        return {"image": name, "layer": found["Id"], "user": data["user"], "ids": data["ids"]}

    async def drop(self, kept: Data) -> None:
        await self._images.drop(kept["image"])

    async def fork(self, data: Data, machines: list[str], image: DockerImage) -> list[Spawned]:
        # Tried again, it goes on from the same state, unless it succeeded and only its answer was lost.
        kept = await self.snapshot(data, f"fork-{machines[0]}")
        tasks = [asyncio.create_task(self.restore(machine, image, kept, load={})) for machine in machines]
        try:
            made = await asyncio.gather(*tasks)
        except BackendUnavailable:
            raise
        except RegrowError:
            await self.drop(kept)
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self.drop(kept)
        return made

    # The engine's objects ---------------------------------------------------------------------------------------------

    def _labels(self, machine: str, layer: str) -> dict[str, str]:
        return {
            options.MACHINE: machine,
            options.NODE: self.node.name,
            options.STORE: self.node.store,
            options.LAYER: layer,
        }

    def _ours(self) -> list[str]:
        return [f"{options.NODE}={self.node.name}", f"{options.STORE}={self.node.store}"]

    async def _container(self, name: str) -> dict[str, Any] | None:
        try:
            return await self._engine.call(lambda c: c.inspect_container(name))
        except docker.errors.APIError as error:
            if error.status_code == 404:
                return None
            raise BackendUnavailable(f"Docker does not answer: {error}", hint="try again") from error

    async def _revive(self, name: str) -> bool:
        """Start a container that stopped; whether it is there."""
        found = await self._container(name)
        if found is None or found["State"]["Dead"]:
            return False
        if found["State"]["Running"]:  # also while it is paused
            return True
        log.info("docker-machine-restarted", container=name, exit_code=found["State"]["ExitCode"])
        try:
            await self._engine.call(lambda c: c.start(name))
        except docker.errors.APIError as error:
            if error.status_code in (404, 409):  # its removal is under way
                return False
            raise failed(f"Docker does not start {name} again", error) from error
        return True


def _user(data: Data, user: str) -> str:
    if user == "agent":
        return data["user"]
    if user == "root":
        return "0"
    if not options.user(user):
        raise MachineFailed(f"{user[:80]!r} is no name of a user", hint='give "agent", "root" or a name')
    return user


def _lost(container: str) -> MachineLost:
    return MachineLost(f"The container {container} is gone", hint="make another machine, or restore a snapshot")


def _until_gone(client: Any, container: str) -> None:
    try:
        client.wait(container, timeout=client.timeout, condition="removed")
    except docker.errors.APIError as error:
        if error.status_code != 404:
            raise
