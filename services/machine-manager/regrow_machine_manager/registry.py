"""The backends of a node: found by entry points of the group `regrow.machines`, opened, and tried again when they
cannot be used yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from regrow_protocol.errors import RegrowError
from regrow_service.logs import get_logger

from .backend import Backend, BackendUnavailable, Node
from .commands import Commands
from .folders import Folders
from .settings import ManagerSettings

GROUP = "regrow.machines"
AGAIN = 15.0
OPEN_TIMEOUT = 60.0


@dataclass(frozen=True)
class Opened:
    """A backend that can be used, and what is built on it."""

    backend: Backend[Any]
    commands: Commands
    folders: Folders


class UnknownBackend(RegrowError):
    """There is no backend of that name."""

    code = "unknown-backend"


class Backends:
    """Those of this node.

    Args:
        settings: which ones, and where they keep what is theirs.
        store: id of the store that holds the records.
        on_change: called when one was opened.

    Attributes:
        opened: by name.
    """

    def __init__(self, settings: ManagerSettings, store: str, on_change: Callable[[], None]) -> None:
        self.opened: dict[str, Opened] = {}
        self._settings = settings
        self._store = store
        self._on_change = on_change
        self._told: dict[str, str] = {}
        self._log = get_logger("backends")

    def get(self, name: str) -> Opened:
        """The backend `name`. Raises BackendUnavailable when it cannot be used on this node (now)."""
        found = self.opened.get(name)
        if found is None:
            raise BackendUnavailable(
                f"The backend {name!r} cannot be used on the node {self._settings.node_name} at present",
                hint=self._told.get(name, "is it installed there, and among its --backends?"),
            )
        return found

    async def open(self) -> None:
        """Open each that is wanted and not open; who cannot be used is left out."""
        wanted = self._settings.backends
        missing = [
            point
            for point in entry_points(group=GROUP)
            if point.name not in self.opened and (not wanted or point.name in wanted)
        ]
        for name in wanted - {point.name for point in entry_points(group=GROUP)}:
            self._leave_out(name, "no installed package has it")
        await asyncio.gather(*[self._open(point) for point in missing])

    async def run(self) -> None:
        """Try again those that could not be opened, for ever; may be cancelled at any moment."""
        while True:
            await asyncio.sleep(AGAIN)
            before = len(self.opened)
            await self.open()
            if len(self.opened) != before:
                self._on_change()

    async def close(self) -> None:
        """Let go of what they hold; machines go on."""
        for each in self.opened.values():
            await each.commands.close()
            await each.backend.close()

    async def _open(self, point: EntryPoint) -> None:
        folder = self._settings.folder / self._store / point.name
        try:
            kind: type[Backend[Any]] = await asyncio.to_thread(point.load)
            await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
            backend = kind(
                Node(
                    self._settings.node_name,
                    folder,
                    self._store,
                    self._settings.volumes,
                    self._settings.docker_host_network,
                )
            )
            async with asyncio.timeout(OPEN_TIMEOUT):
                await backend.open()
        except (ImportError, BackendUnavailable, TimeoutError, OSError) as error:
            self._leave_out(point.name, f"{type(error).__name__}: {error}")
            return
        except Exception as error:  # noqa: BLE001 - somebody else's backend must not end the others
            self._leave_out(point.name, f"{type(error).__name__}: {error}", broken=True)
            return
        self._told.pop(point.name, None)
        self.opened[point.name] = Opened(backend, Commands(backend), Folders(backend))
        self._log.info("backend ready", backend=point.name)

    def _leave_out(self, name: str, reason: str, *, broken: bool = False) -> None:
        """One line in the log, until the reason changes."""
        if self._told.get(name) != reason:
            self._told[name] = reason
            if broken:
                self._log.exception("backend broken, left out", backend=name)
            else:
                self._log.info("backend left out", backend=name, reason=reason)
