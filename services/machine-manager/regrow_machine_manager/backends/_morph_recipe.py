"""Snapshots of MorphCloud that recipes make: a snapshot after each command, found again by its digest.

The digests are those of the SDK's `Snapshot.exec`, so what was made with that is found, and the other way round. The
SDK's own way to build is not used: it prints, trusts any gateway, and leaves its instance running when it is cut off.
Here the instance that commands run on ends by itself after `BUILD_TIMEOUT`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from regrow_protocol.images import MorphImage

from ..backend import MachineFailed
from ._morph_api import START_TIMEOUT, calling, megabytes

if TYPE_CHECKING:
    from morphcloud.api import Instance, Snapshot

    from .morph import MorphBackend

BUILD_TIMEOUT = 3600
"""Seconds that the commands of a recipe may take in all."""


class Recipes:
    """Builds the images of a backend; one recipe once at a time."""

    def __init__(self, backend: MorphBackend) -> None:
        self._backend = backend
        self._locks: dict[str, asyncio.Lock] = {}

    async def build(self, image: MorphImage) -> str:
        """The id of the snapshot that an image's recipe gives.

        Raises:
            MachineFailed: a command of it failed.
        """
        base = await self._base(image)
        wanted = digests(base.digest or base.id, image.recipe)
        if not wanted:
            return base.id
        lock = self._locks.setdefault(wanted[-1], asyncio.Lock())
        async with lock:
            made = await self._build(base.id, image.recipe, wanted)
        if not lock.locked():
            self._locks.pop(wanted[-1], None)
        return made

    async def _base(self, image: MorphImage) -> Snapshot:
        memory, disk = megabytes(image.memory), megabytes(image.disk)
        digest = f"regrow-{image.base}-{image.vcpus}-{memory}-{disk}"
        async with calling(image.base, START_TIMEOUT):
            snapshots = self._backend.client.snapshots
            return await snapshots.acreate(image.base, image.vcpus, memory, disk, digest=digest)

    async def _build(self, base: str, commands: list[str], wanted: list[str]) -> str:
        done, start = await self._cached(base, wanted)
        if done == len(commands):
            return start
        async with calling(start, START_TIMEOUT):
            instance = await self._backend.client.instances.astart(
                start,
                metadata={"regrow.recipe": wanted[-1], "regrow.node": self._backend.node.name},
                ttl_seconds=BUILD_TIMEOUT,
                ttl_action="stop",
                timeout=START_TIMEOUT,
            )
        try:
            await self._backend.reach(instance.id)
            for command, digest in zip(commands[done:], wanted[done:], strict=True):
                start = await self._step(instance, command, digest)
            return start
        finally:
            await self._backend.end(instance.id)

    async def _cached(self, base: str, wanted: list[str]) -> tuple[int, str]:
        """How many commands are done already, and the snapshot after them."""
        for done in range(len(wanted), 0, -1):
            async with calling(wanted[done - 1]):
                found = await self._backend.client.snapshots.alist(digest=wanted[done - 1])
            ready = [snapshot for snapshot in found if snapshot.status.value == "ready"]
            if ready:
                return done, ready[0].id
        return 0, base

    async def _step(self, instance: Instance, command: str, digest: str) -> str:
        async with asyncio.timeout(BUILD_TIMEOUT):
            done = await self._backend.links.run(self._backend.gateway(instance.id), command)
        if done.exit_code:
            said = (done.stdout + done.stderr)[-500:].decode(errors="replace")
            raise MachineFailed(f"{command[:80]!r} of the recipe: exit code {done.exit_code}: {said}")
        async with calling(instance.id, START_TIMEOUT):
            made = await instance.asnapshot(digest=digest)
            await made.await_until_ready(timeout=START_TIMEOUT)
        return made.id


def digests(start: str, commands: list[str]) -> list[str]:
    """The digest of the snapshot after each command, as `Snapshot.exec` of the SDK has them."""
    from morphcloud.api import Snapshot

    found: list[str] = []
    for command in commands:
        arguments = {"command": command, "background": False, "get_pty": True}
        start = Snapshot.compute_chain_hash(start, f"_run_command_effect(){arguments}")
        found.append(start)
    return found
