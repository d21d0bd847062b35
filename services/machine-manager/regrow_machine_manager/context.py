"""What the parts of one manager share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from regrow_protocol.bus import Bus
from regrow_protocol.errors import RegrowError
from regrow_protocol.ids import MACHINE, derived_id, made_at
from regrow_protocol.images import Image, InvalidImage, SnapshotImage, decode_image
from regrow_protocol.machines import MachineRecord, MachineRef
from regrow_service.answers import Answers
from regrow_service.metrics import Metrics

from .backend import MachineFailed
from .capacity import Claims, Need
from .records import Records
from .registry import Backends
from .settings import ManagerSettings


class NoSuchSnapshot(MachineFailed):
    """There is no snapshot of that id, or not of this app."""

    code = "no-such-snapshot"


@dataclass
class Context:
    """One manager's.

    Attributes:
        id: of the manager, `w_…`.
        node: its node.
        background: runs a coroutine, which sees to its own errors, until it ends or the service does.
        stopping: the service is to end.
    """

    id: str
    node: str
    bus: Bus
    settings: ManagerSettings
    metrics: Metrics
    records: Records
    claims: Claims
    backends: Backends
    answers: Answers
    stopping: asyncio.Event
    background: Callable[[Coroutine[Any, Any, None], str], None]

    async def need(self, record: MachineRecord) -> Need:
        """What a machine needs of its node.

        Raises:
            InvalidImage: its image does not fit its backend, which is here.
            NoSuchSnapshot: it shall be made from a snapshot that is not there.
        """
        image, node = record.image, ""
        if image.backend == SnapshotImage.backend:
            wanted = decode_image(image, SnapshotImage)
            snapshot = await self.records.snapshot(wanted.id)
            if snapshot is None or snapshot.app != record.app:
                raise NoSuchSnapshot(
                    f"There is no snapshot {wanted.id}", hint="was it removed, or is it another app's?"
                )
            image, node = snapshot.image, snapshot.node
        return Need(image.backend, record.labels, node, self.memory(image))

    def memory(self, image: Image) -> int:
        """Bytes that a machine of an image is promised; 0 where its backend is not here.

        Raises:
            InvalidImage: the image does not fit.
        """
        opened = self.backends.opened.get(image.backend)
        if opened is None:
            return 0
        try:
            return opened.backend.memory(decode_image(image, opened.backend.image))
        except RegrowError:
            raise
        except Exception as error:  # somebody else's backend must not end the manager
            raise InvalidImage(f"{image.backend} takes no such image: {type(error).__name__}: {error}") from error

    def load(self, backend: str) -> dict[str, int]:
        """Machines on each host of a backend."""
        hosts: dict[str, int] = {}
        for kept in self.records.machines.values():
            if kept.record.backend == backend and kept.record.host:
                hosts[kept.record.host] = hosts.get(kept.record.host, 0) + 1
        return hosts


def id_for(prefix: str, command: str, part: str = "") -> str:
    """The id of what a command makes, the same in every repeat."""
    return derived_id(prefix, command + part, made_at(command.partition(".")[0]))


def machine_id(command: str, part: str = "") -> str:
    """The id of the machine that a command makes."""
    return id_for(MACHINE, command, part)


def ref_of(record: MachineRecord) -> MachineRef:
    """A machine as its users know it."""
    return MachineRef(record.id, record.app, record.node, record.backend)
