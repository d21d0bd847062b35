"""What containers may have of their host: nothing, unless the node's operator says so.

Who may mount any folder of the host, or be on its network, is root there. So folders are mounted only where
`--docker-volumes` names them, and the host's network is there only with `--docker-host-network`. Named volumes hold
nothing of the host and are free.

A folder below one that is named may be mounted too, unless links lead out of that. They are looked at before the engine
mounts it: who may write to the folder could exchange them in between. Folders that are named themselves, and those that
are named with `:ro`, are safe from that.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from regrow_protocol.images import DockerImage, InvalidImage

HOST = "host"
"""The driver of the host's network, and its name."""

COMMON = frozenset({"bridge", "none", HOST})
"""Networks whose drivers need not be asked for."""


def check(image: DockerImage, driver: str, volumes: Sequence[str], host_network: bool) -> None:
    """Refuse an image that wants more of the host than is allowed.

    Args:
        image: whose fields have been checked.
        driver: of its network.
        volumes: folders of the host; one that ends in `:ro` can only be mounted so.
        host_network: whether the host's network may be used.

    Raises:
        InvalidImage: says which setting would allow it.
    """
    if driver == HOST and not host_network:
        raise InvalidImage(
            "This node allows no machine on the host's network",
            hint="its operator can: regrow-machine-manager --docker-host-network, REGROW_DOCKER_HOST_NETWORK=1",
        )
    for source, target in image.volumes.items():
        if source.startswith("/") and not any(_within(source, target, allowed) for allowed in volumes):
            raise InvalidImage(
                f"This node does not allow its folder {source!r} to be mounted at {target!r}",
                hint="take a named volume, or its operator can allow it: regrow-machine-manager --docker-volumes PATH, "
                "REGROW_DOCKER_VOLUMES",
            )


def _within(source: str, target: str, allowed: str) -> bool:
    """Whether a mount of `source` is one of the folder `allowed`."""
    folder = allowed.removesuffix(":ro")
    if folder != allowed and not target.endswith(":ro"):
        return False
    source, folder = posixpath.normpath(source), posixpath.normpath(folder)
    if source == folder:
        return True
    real, root = posixpath.realpath(source), posixpath.realpath(folder)
    return _below(source, folder) and _below(real, root)


def _below(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")
