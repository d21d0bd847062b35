"""Images: what a machine is made from. Plain frozen dataclasses that travel in messages.

An image names its backend in `backend`; whoever adds a backend brings an image class of their own, decorated with
`@dataclass(frozen=True, kw_only=True)` and a `backend: ClassVar[str]`. On the wire an image is an `Image`: the
backend's name and the fields that are not at their default.

Sizes are bytes, or text as "512m", "2g"; times are seconds. With `snapshot_on_failure` a machine is snapshotted before
its process fails; that is a wish of `machine()`, which takes it out of the image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import msgspec
from msgspec import Raw, Struct

from .errors import RegrowError


class InvalidImage(RegrowError):
    """An image whose fields do not fit."""

    code = "invalid-image"


class Image(Struct, frozen=True):
    """An image as it travels.

    Attributes:
        backend: its name, as in the entry point group `regrow.machines`.
        options: JSON object of the image's fields.
    """

    backend: str
    options: Raw = Raw(b"{}")


class AnyImage(Protocol):
    """An image class: a frozen dataclass that names its backend."""

    backend: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What each command on a machine may use, by `setrlimit`; None: what the manager itself may.

    Attributes:
        cpu: seconds of processor time.
        memory: bytes of address space.
        file: bytes of the largest file.
        files: open files.
        processes: of the user, in all.
    """

    cpu: int | None = None
    memory: int | str | None = None
    file: int | str | None = None
    files: int | None = None
    processes: int | None = None


@dataclass(frozen=True, kw_only=True)
class LocalImage:
    """A folder on the manager's node, and commands that run there as ordinary processes: no isolation.

    Attributes:
        workdir: an existing folder to work in, which is kept; None: a new one that is removed with the machine.
        env: variables of every command.
        user: that commands run as; needs a manager that runs as root. None: the manager's own.
        limits: of each command.
        snapshot_on_failure: as said above.
    """

    backend: ClassVar[str] = "local"
    workdir: str | None = None
    env: dict[str, str] = field(default_factory=dict[str, str])
    user: str | None = None
    limits: Limits = Limits()
    snapshot_on_failure: bool = False


@dataclass(frozen=True, kw_only=True)
class DockerImage:
    """A container.

    Attributes:
        image: reference of the Docker image; may be given without its name.
        workdir: absolute path in the container where commands start; it is created.
        env: variables of every command.
        user: that commands of `user="agent"` run as; None: `agent` where the image has one, else the image's own.
        volumes: volume name, or host path that the node's operator allows, → path in the container, which may end in
            `:ro`.
        memory, cpus, pids: limits.
        network: of the container: `bridge`, `none`, the name of one, or `host` where the node's operator allows that.
        gpus: how many, or `all`.
        pull: when to fetch the image.
        snapshot_on_failure: as said above.
    """

    backend: ClassVar[str] = "docker"
    image: str = field(kw_only=False)
    workdir: str = "/workspace"
    env: dict[str, str] = field(default_factory=dict[str, str])
    user: str | None = None
    volumes: dict[str, str] = field(default_factory=dict[str, str])
    memory: int | str | None = None
    cpus: float | None = None
    pids: int | None = 4096
    network: str = "bridge"
    gpus: int | Literal["all"] | None = None
    pull: Literal["missing", "always", "never"] = "missing"
    snapshot_on_failure: bool = False


@dataclass(frozen=True, kw_only=True)
class SSHImage:
    """A folder on a host that is reached over SSH.

    Attributes:
        host: name or address; may be given without its name.
        hosts: instead, a pool: the machine is made on the one with the fewest machines.
        user: to log in as; None: the manager's user name.
        key: path of a private key on the manager's node; None: its SSH agent and default keys.
        known_hosts: path of a known_hosts file there; None: `~/.ssh/known_hosts`. Unknown hosts are refused.
        workdir: folder to work in, which is kept; None: a new one under `~/.regrow`, removed with the machine.
        env: variables of every command.
        port: of the SSH server.
        jump: `user@host:port` to connect through.
        snapshot_on_failure: as said above.
    """

    backend: ClassVar[str] = "ssh"
    host: str | None = field(default=None, kw_only=False)
    hosts: list[str] = field(default_factory=list[str])
    user: str | None = None
    key: str | None = None
    known_hosts: str | None = None
    workdir: str | None = None
    env: dict[str, str] = field(default_factory=dict[str, str])
    port: int = 22
    jump: str | None = None
    snapshot_on_failure: bool = False


@dataclass(frozen=True, kw_only=True)
class MorphImage:
    """A virtual machine of MorphCloud; its API key is the manager's `MORPH_API_KEY`.

    Attributes:
        id: of a snapshot to start from.
        recipe: instead, shell commands that make one from MorphCloud's base image, each cached.
        base: MorphCloud's base image, for `recipe`.
        vcpus: processors.
        memory, disk: bytes.
        env: variables of every command.
        workdir: where commands start.
        snapshot_on_failure: as said above.
    """

    backend: ClassVar[str] = "morph"
    id: str | None = None
    recipe: list[str] = field(default_factory=list[str])
    base: str = "morphvm-minimal"
    vcpus: int = 1
    memory: int | str = "1g"
    disk: int | str = "8g"
    env: dict[str, str] = field(default_factory=dict[str, str])
    workdir: str = "/workspace"
    snapshot_on_failure: bool = False


@dataclass(frozen=True)
class SnapshotImage:
    """A machine that continues from a snapshot; `from_snapshot` makes it.

    Attributes:
        id: of the snapshot, `s_…`.
        snapshot_on_failure: as said above.
    """

    backend: ClassVar[str] = "snapshot"
    id: str
    snapshot_on_failure: bool = False


def from_snapshot(id: str, *, snapshot_on_failure: bool = False) -> SnapshotImage:  # noqa: A002 - the public name
    """The image of a snapshot: `await machine(image=from_snapshot(id))`."""
    return SnapshotImage(id, snapshot_on_failure)


def split_wishes(image: AnyImage) -> tuple[AnyImage, bool]:
    """The image as its backend gets it, and whether its machine is snapshotted when its process fails."""
    if getattr(image, "snapshot_on_failure", False) is not True or not dataclasses.is_dataclass(image):
        return image, False
    return dataclasses.replace(image, snapshot_on_failure=False), True  # pyright: ignore[reportReturnType]


def encode_image(image: AnyImage) -> Image:
    """An image as it travels.

    Raises:
        InvalidImage: it is no image.
    """
    if not dataclasses.is_dataclass(image) or isinstance(image, type) or not isinstance(image.backend, str):
        raise InvalidImage(f"{image!r} is no image", hint="use LocalImage(), DockerImage('python:3.12'), SSHImage(...)")
    try:
        options = msgspec.json.encode(
            {f.name: value for f in dataclasses.fields(image) if (value := getattr(image, f.name)) != _default(f)}
        )
        decode_image(Image(image.backend, Raw(options)), type(image))
    except TypeError as error:
        raise InvalidImage(f"{type(image).__name__} cannot be sent: {error}") from error
    return Image(image.backend, Raw(options))


def _default(given: dataclasses.Field[Any]) -> Any:
    return given.default_factory() if given.default_factory is not dataclasses.MISSING else given.default


T = TypeVar("T")


def decode_image(image: Image, type_: type[T]) -> T:
    """What travelled, as an instance of its class.

    Raises:
        InvalidImage: the fields do not fit.
    """
    try:
        return msgspec.json.decode(image.options, type=type_)
    except msgspec.MsgspecError as error:
        raise InvalidImage(f"{type_.__name__}: {error}", hint=f"see help({type_.__name__})") from error


_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def size(value: int | str) -> int:
    """Bytes of a size: 1048576, "512m", "2g".

    Raises:
        InvalidImage: it is no size.
    """
    text = str(value).strip().lower().removesuffix("ib").removesuffix("b") or "-"
    number, unit = (text[:-1], text[-1]) if text[-1] in _UNITS else (text, "")
    try:
        found = int(float(number) * _UNITS[unit])
    except (ValueError, OverflowError):
        found = 0
    if found <= 0:
        raise InvalidImage(f"{value!r} is no size", hint='bytes, or as "512m", "2g"')
    return found


IMAGES: dict[str, type[Any]] = {t.backend: t for t in (LocalImage, DockerImage, SSHImage, MorphImage, SnapshotImage)}
"""The images of the backends that Regrow has itself, by backend."""
