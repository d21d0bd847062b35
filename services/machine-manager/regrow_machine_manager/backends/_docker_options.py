"""What a container is created with: an image's fields checked and turned into the engine's options.

Fields come from whoever may create machines. Each is passed to the engine as a value of its own, never as part of a
text that it takes apart (`bind:mode`, `container:name`), and is refused with `InvalidImage` unless it looks like what
it is.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

from regrow_protocol.images import DockerImage, InvalidImage, size
from regrow_protocol.machines import ENGINES_COMPUTER

from ..paths import MAX_PATH
from ._docker_sdk import docker

STATE = "/var/lib/regrow"
"""Folder in the container for the manager's own files: a volume, so that no snapshot contains it and it goes with the
container; anybody may write there, as in /tmp, since commands of all users keep their output in it."""

MACHINE, NODE, STORE, LAYER, SNAPSHOT = (f"regrow.{name}" for name in ("machine", "node", "store", "layer", "snapshot"))
"""Labels of what is ours: the machine's id, the node, the store of the records, the image's id of a machine from a
snapshot; and the snapshot's id."""

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?")
_VARIABLE = re.compile(r"[^=\0]+")


def check(image: DockerImage) -> None:
    """Refuse an image whose fields are not what they should be.

    Raises:
        InvalidImage: says which one.
    """
    _must(_REFERENCE.fullmatch(image.image), f"{image.image[:80]!r} is no reference of a Docker image")
    _must(absolute(image.workdir) and image.workdir != "/", f"workdir {image.workdir!r} is no absolute path below /")
    _must(image.user is None or user(image.user), f"user {image.user!r} is no name or number of a user")
    _must(_NAME.fullmatch(image.network), f"network {image.network!r} is no name of one")
    _must(image.cpus is None or image.cpus > 0, f"cpus is {image.cpus}")
    _must(image.pids is None or image.pids > 0, f"pids is {image.pids}")
    _must(image.gpus is None or image.gpus == "all" or image.gpus > 0, f"gpus is {image.gpus}")
    for name, value in image.env.items():
        _must(_VARIABLE.fullmatch(name) and "\0" not in value, f"{name!r} is no variable, or has NULs")
    for source, target in image.volumes.items():
        _must(absolute(source) or _NAME.fullmatch(source), f"volume {source!r}: no absolute path or name of a volume")
        path = target.removesuffix(":ro")
        _must(absolute(path) and path != "/", f"volume {source!r}: {target!r} is no absolute path below /")
        _must(not _overlap(path, STATE), f"volume {source!r}: {STATE} is the manager's own")
    if image.memory is not None:
        size(image.memory)


def absolute(path: str) -> bool:
    """Whether it is an absolute path in its plain form, without `..`, colons or NULs."""
    plain = posixpath.normpath(path) == path.rstrip("/") or path == "/"
    return path.startswith("/") and plain and len(path) <= MAX_PATH and not set("\0:\n") & set(path)


def user(name: str) -> bool:
    """Whether it can be a user: a name or number, and maybe a group after a colon."""
    return _USER.fullmatch(name) is not None


def create(api: Any, image: DockerImage, reference: str, labels: dict[str, str]) -> dict[str, Any]:
    """The configuration of a container, for `create_container_from_config`.

    It does nothing but wait, as root, so that no command of an ordinary user can end it; and below an init process, so
    that it ends at once when asked to and nothing that commands leave behind stays as a zombie.
    """
    mounts = [docker.types.Mount(STATE, None, labels=labels)]
    for source, target in image.volumes.items():
        path = target.removesuffix(":ro")
        kind = "bind" if source.startswith("/") else "volume"
        mounts.append(docker.types.Mount(path, source, type=kind, read_only=path != target))
    memory = size(image.memory) if image.memory is not None else None
    gpus = None
    if image.gpus is not None:
        gpus = [docker.types.DeviceRequest(count=-1 if image.gpus == "all" else image.gpus, capabilities=[["gpu"]])]
    host = api.create_host_config(
        mounts=mounts,
        network_mode=image.network,
        mem_limit=memory,
        memswap_limit=memory,  # of both together: no swap
        nano_cpus=int(image.cpus * 1e9) if image.cpus is not None else None,
        pids_limit=image.pids,
        device_requests=gpus,
        init=True,
        extra_hosts={ENGINES_COMPUTER: "127.0.0.1" if image.network == "host" else "host-gateway"},
        security_opt=["no-new-privileges"],
    )
    return api.create_container_config(
        reference,
        ["2147483647"],
        entrypoint=["sleep"],  # with a number: not every `sleep` knows "infinity"
        user="0",
        environment=image.env,
        labels=labels,
        host_config=host,
        healthcheck={"test": ["NONE"]},
    )


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _must(holds: object, otherwise: str) -> None:
    if not holds:
        raise InvalidImage(otherwise, hint="see help(DockerImage)")
