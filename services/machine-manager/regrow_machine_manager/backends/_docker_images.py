"""Docker images: those that machines are made from, fetched as their policy says, and those that snapshots are.

A snapshot is `regrow-snapshot:<id>`. Dropped, it loses that name; its layers go with the last machine made from it.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from regrow_protocol.images import DockerImage

from ..backend import MachineFailed
from ._docker_engine import Engine, failed
from ._docker_options import SNAPSHOT
from ._docker_sdk import docker

_PULLS = 3
"""Tries of a pull that fails without saying that there is no such image."""

_REPOSITORY = "regrow-snapshot"

Found = dict[str, Any]
"""An image as the engine describes it: `Id`, `RepoTags`, `Config`."""

log = structlog.get_logger(__name__)


class ImageMissing(MachineFailed):
    """There is no such Docker image, or it may not be had."""

    code = "image-missing"


class PullFailed(MachineFailed):
    """The Docker image cannot be fetched."""

    code = "pull-failed"


class Images:
    """The images of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def get(self, image: DockerImage) -> Found:
        """What a machine is made from, fetched as the policy says.

        Raises:
            ImageMissing, PullFailed
        """
        found = None if image.pull == "always" else await self.find(image.image)
        if found is None and image.pull == "never":
            raise ImageMissing(f"Docker has no image {image.image}", hint='pull it, or use pull="missing"')
        return found or await self._pull(image.image)

    async def find(self, reference: str) -> Found | None:
        """An image that the engine has."""
        try:
            return await self._engine.call(lambda c: c.inspect_image(reference))
        except docker.errors.APIError as error:
            if error.status_code == 404:
                return None
            raise failed(f"Docker does not look at the image {reference}", error) from error

    async def _pull(self, reference: str) -> Found:
        repository, tag = docker.utils.parse_repository_tag(reference)

        def pull(client: Any) -> str:
            """What went wrong."""
            steps = client.pull(repository, tag or "latest", stream=True, decode=True)
            return next((step["error"] for step in steps if "error" in step), "")

        said = ""
        for attempt in range(_PULLS):
            await asyncio.sleep(float(attempt))
            try:
                said = await self._engine.call(pull, slow=True)
            except docker.errors.APIError as error:
                said = str(error.explanation or error)
                if error.status_code in (401, 403, 404):
                    raise ImageMissing(f"There is no image {reference}: {said}", hint="check its name") from error
            if any(words in said for words in ("not found", "manifest unknown", "denied")):
                raise ImageMissing(f"There is no image {reference}: {said}", hint="check its name")
            found = None if said else await self.find(reference)
            if found is not None:
                return found
        raise PullFailed(f"The image {reference} cannot be fetched: {said}", hint='load it, and use pull="never"')

    # Snapshots --------------------------------------------------------------------------------------------------------

    async def commit(self, container: str, snapshot: str, labels: dict[str, str]) -> tuple[str, Found]:
        """Keep the container's files under the id `snapshot`, once; the image's name, and itself.

        Raises:
            APIError: the engine refuses: 404 where there is no such container.
        """
        name = f"{_REPOSITORY}:{snapshot}"
        found = await self.find(name)
        if found is None:
            conf = {"Labels": {**labels, SNAPSHOT: snapshot}}
            found = await self._engine.call(lambda c: c.commit(container, _REPOSITORY, snapshot, conf=conf), slow=True)
        return name, found

    async def drop(self, name: str) -> None:
        """Remove a snapshot; by force, so that it loses its name also while machines use its layers."""
        await self._remove(name, force=True)

    async def sweep(self, layer: str) -> None:
        """Remove the layers of a dropped snapshot unless something uses them."""
        found = await self.find(layer)
        if found is not None and not found["RepoTags"]:
            await self._remove(layer, force=False)

    async def sweep_all(self, labels: list[str]) -> None:
        """The same for all dropped snapshots with these labels, whoever removed the machines."""
        try:
            filters = {"dangling": True, "label": [SNAPSHOT, *labels]}
            await self._engine.call(lambda c: c.prune_images(filters), slow=True)
        except docker.errors.APIError as error:  # somebody else does it just now
            log.warning("docker-prune-refused", error=str(error))

    async def _remove(self, reference: str, *, force: bool) -> None:
        try:
            await self._engine.call(lambda c: c.remove_image(reference, force=force), slow=True)
        except docker.errors.APIError as error:
            if error.status_code not in (404, 409):  # gone, or used by a machine or a later snapshot
                raise failed(f"Docker does not remove the image {reference}", error) from error
