"""Who has room for a machine, and claims of it.

A node's record lists what is claimed: machine id → bytes of memory. A claim is made by compare-and-set before the
machine's record says that the node makes it, so two managers of a node never take more than it has.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace
from regrow_protocol.errors import RegrowError
from regrow_protocol.machines import NodeRecord

from .records import Records
from .settings import ManagerSettings


class NoCapacity(RegrowError):
    """No node that fits has room."""

    code = "no-capacity"


@dataclass(frozen=True)
class Need:
    """What a machine needs.

    Attributes:
        backend: its name.
        labels: that the node must have.
        node: the only one that can make it; empty: any.
        memory: bytes that it is promised; 0 where that is not known here.
    """

    backend: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    node: str = ""
    memory: int = 0


def misfit(node: NodeRecord, need: Need) -> str:
    """Why a node can never have the machine; empty when it can."""
    if need.node and node.node != need.node:
        return f"the snapshot is on {need.node}"
    if need.backend not in node.backends:
        return f"has no backend {need.backend!r}"
    if missing := {name: value for name, value in need.labels.items() if node.labels.get(name) != value}:
        return "lacks the label " + ", ".join(f"{name}={value}" for name, value in sorted(missing.items()))
    return ""


def full(node: NodeRecord, memory: Collection[int], without: Collection[str] = ()) -> str:
    """Why a node has no room for machines now; empty when it has.

    Args:
        node: its record.
        memory: bytes that each of them is promised.
        without: claims that could be given up.
    """
    if node.closed:
        return node.closed
    claimed = {id_: amount for id_, amount in node.claimed.items() if id_ not in without}
    if node.max_machines and len(claimed) + len(memory) > node.max_machines:
        return f"has {len(claimed)} of {node.max_machines} machines"
    used = sum(claimed.values())
    if node.memory and sum(memory) and used + sum(memory) > node.memory:
        return f"has promised {used >> 20} of {node.memory >> 20} MiB of memory, and {sum(memory) >> 20} are wanted"
    return ""


class Claims:
    """Claims on nodes, by compare-and-set in `records`."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._turns: dict[str, asyncio.Lock] = {}

    async def claim(self, node: str, wanted: Mapping[str, int]) -> str:
        """Claim room for machines (id → bytes of memory), all or none; why there is none, or empty.

        What is claimed already is no obstacle.
        """
        reason = ""

        def take(record: NodeRecord) -> NodeRecord | None:
            nonlocal reason
            new = {id_: amount for id_, amount in wanted.items() if id_ not in record.claimed}
            reason = full(record, list(new.values())) if new else ""
            if reason or not new:
                return None
            return replace(record, claimed={**record.claimed, **new})

        async with self._turns.setdefault(node, asyncio.Lock()):
            await self._records.change_node(node, take)
        return reason

    async def release(self, node: str, ids: Collection[str]) -> None:
        """Give up claims."""

        def drop(record: NodeRecord) -> NodeRecord | None:
            left = {id_: amount for id_, amount in record.claimed.items() if id_ not in ids}
            return replace(record, claimed=left) if len(left) != len(record.claimed) else None

        async with self._turns.setdefault(node, asyncio.Lock()):
            await self._records.change_node(node, drop)


async def disk(settings: ManagerSettings) -> str:
    """Why the node's disk is too full for more machines, or empty."""
    if not settings.free_disk:
        return ""
    free = (await asyncio.to_thread(shutil.disk_usage, settings.folder)).free
    if free >= settings.free_disk:
        return ""
    return f"has only {free >> 20} MiB of free disk, less than {settings.free_disk >> 20}"
