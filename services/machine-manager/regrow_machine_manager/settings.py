"""What the machine-manager takes from the environment, beyond what every service takes; the same as options."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from regrow_protocol.images import InvalidImage, size
from regrow_service.settings import InvalidSetting, ServiceSettings, read

_PAIRS = r"^$|^[^=,\s]+=[^,]+(,[^=,\s]+=[^,]+)*$"


class ManagerSettings(ServiceSettings, frozen=True, kw_only=True):
    """See `regrow_service.settings`."""

    node: Annotated[
        str, Meta(max_length=128, description="Name of the node; empty: the host's. Managers of one node share it.")
    ] = ""
    machines_folder: Annotated[
        str, Meta(description="Folder for what backends keep on the node; empty: `~/.regrow/machines-<node>`.")
    ] = ""
    machine_backends: Annotated[
        str, Meta(description="Backends to offer, separated by commas; empty: all that are there.")
    ] = ""
    machine_labels: Annotated[
        str, Meta(pattern=_PAIRS, description="Labels of the node that creations may ask for, as `gpu=1,zone=a`.")
    ] = ""
    max_machines: Annotated[int, Meta(ge=0, description="Machines of the node at a time; 0: any number.")] = 0
    machine_memory: Annotated[
        str, Meta(description="Memory that its machines may be promised in all, as `16g`; empty: any.")
    ] = ""
    min_free_disk: Annotated[
        str, Meta(description="With less free on the disk of the machines' folder the node takes no more; `0`: any.")
    ] = "512m"
    machine_lease: Annotated[
        float,
        Meta(gt=0, description="Seconds without a host of its owner's app after which a machine is stopped."),
    ] = 600.0
    node_lease: Annotated[
        float,
        Meta(ge=1, description="Seconds without any manager of a node after which those of others end its machines."),
    ] = 600.0
    machine_concurrency: Annotated[
        int, Meta(ge=1, le=4096, description="Commands that run on the node's machines at a time; more wait.")
    ] = 256
    machine_concurrency_each: Annotated[
        int, Meta(ge=1, le=4096, description="Commands that run on one machine at a time; more wait.")
    ] = 64
    machine_patience: Annotated[
        float, Meta(gt=0, description="Seconds that a backend may be unavailable before a command fails with that.")
    ] = 60.0
    machine_grace: Annotated[
        float, Meta(gt=0, description="Seconds after which a machine that no record knows is removed.")
    ] = 30.0
    machine_warm: Annotated[
        str, Meta(pattern=_PAIRS, description="Docker machines to make in advance, as `python-dev=3`.")
    ] = ""

    docker_volumes: Annotated[
        str,
        Meta(description="Folders of the node that Docker machines may mount, as `/data,/models:ro`; empty: none."),
    ] = ""
    docker_host_network: Annotated[
        bool, Meta(description='Whether Docker machines may be on the node\'s own network (`network="host"`).')
    ] = False

    @property
    def node_name(self) -> str:
        """Name of the node."""
        return self.node or socket.gethostname()

    @property
    def folder(self) -> Path:
        """Where the backends keep what is theirs."""
        given = self.machines_folder or f"~/.regrow/machines-{self.node_name}"
        return Path(given).expanduser().absolute()

    @property
    def labels(self) -> dict[str, str]:
        """Of the node."""
        return _pairs(self.machine_labels)

    @property
    def backends(self) -> frozenset[str]:
        """Names of those to offer; empty: all."""
        return frozenset(name.strip() for name in self.machine_backends.split(",") if name.strip())

    @property
    def warm(self) -> dict[str, int]:
        """Docker image → machines to make in advance."""
        found: dict[str, int] = {}
        for image, number in _pairs(self.machine_warm).items():
            if not number.isdecimal():
                raise InvalidSetting(f"{image}={number!r}: how many machines?", hint="--warm IMAGE=NUMBER")
            found[image] = int(number)
        return found

    @property
    def volumes(self) -> tuple[str, ...]:
        """Folders of the node that machines may mount; those that end in `:ro` only to be read."""
        found = tuple(path.strip() for path in self.docker_volumes.split(",") if path.strip())
        for path in found:
            if not path.startswith("/") or ".." in path.split("/"):
                raise InvalidSetting(f"REGROW_DOCKER_VOLUMES: {path!r} is no absolute path", hint="/data,/models:ro")
        return found

    @property
    def memory(self) -> int:
        """Bytes; 0: any."""
        return _size("machine_memory", self.machine_memory)

    @property
    def free_disk(self) -> int:
        """Bytes; 0: any."""
        return _size("min_free_disk", self.min_free_disk)


def _pairs(text: str) -> dict[str, str]:
    return {name: value for name, _, value in (pair.partition("=") for pair in text.split(",") if pair)}


def _size(name: str, text: str) -> int:
    if text in ("", "0"):
        return 0
    try:
        return size(text)
    except InvalidImage as error:
        raise InvalidSetting(f"REGROW_{name.upper()}: {error.message}", hint=error.hint) from error


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> ManagerSettings:
    """The settings from options and, where those are silent, the environment.

    Raises:
        InvalidSetting: one cannot be used.
        SystemExit: `--help` was asked for, or there is no such option.
    """
    parser = argparse.ArgumentParser(
        prog="regrow-machine-manager",
        description="Make machines and run commands on them.",
        epilog="Further settings are read from the environment (REGROW_…); an option outweighs its variable.",
    )
    option = parser.add_argument
    option("--nats", dest="nats_url", metavar="URL", help="the NATS server (default: $REGROW_NATS_URL)")
    option("--node", help="name of the node (default: the host's)")
    option("--folder", dest="machines_folder", metavar="PATH", help="for what backends keep on the node")
    option("--backends", dest="machine_backends", metavar="NAME,…", help="to offer (default: all that are there)")
    option("--label", dest="machine_labels", action="append", metavar="NAME=VALUE", help="of the node; repeatable")
    option("--max-machines", metavar="N", help="machines of the node at a time")
    option("--memory", dest="machine_memory", metavar="SIZE", help="that its machines may be promised in all, as 16g")
    option("--min-free-disk", metavar="SIZE", help="with less the node takes no more machines")
    option("--lease", dest="machine_lease", metavar="SECONDS", help="without a host of the owner's app; then it ends")
    option("--node-lease", metavar="SECONDS", help="without a manager of another node; then its machines end")
    option("--grace", dest="machine_grace", metavar="SECONDS", help="after which a machine without a record is removed")
    option("--concurrency", dest="machine_concurrency", metavar="N", help="commands at a time on all machines")
    option("--warm", dest="machine_warm", action="append", metavar="IMAGE=N", help="Docker machines made in advance")
    option("--docker-volumes", action="append", metavar="PATH[:ro]", help="of the node, that Docker machines may mount")
    option(
        "--docker-host-network",
        action="store_const",
        const="1",
        help="Docker machines may be on the node's own network",
    )
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    chosen = {
        f"REGROW_{name.upper()}": ",".join(value) if isinstance(value, list) else str(value)
        for name, value in given.items()
    }
    settings = read(ManagerSettings, {**(os.environ if environ is None else environ), **chosen})
    _ = settings.warm, settings.volumes, settings.memory, settings.free_disk  # what they cannot use is said now
    return settings
