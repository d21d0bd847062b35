"""Backends in a package of their own, which do what a test's folder says: be slow, be away, fail.

`<control>/spawned` gets a line per spawn; while `<control>/hold` exists a spawn waits; while `<control>/away` exists
the backend is unavailable; `<control>/broken` makes spawns fail for good, `<control>/bug` like a bug, as does a
negative `memory` of an image whoever asks for that.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from regrow_machine_manager.backend import (
    Backend,
    BackendUnavailable,
    Completed,
    Data,
    MachineFailed,
    MachineLost,
    Spawned,
)


@dataclass(frozen=True, kw_only=True)
class SlowImage:
    backend: ClassVar[str] = "slowbox"
    control: str
    memory: int = 0


@dataclass(frozen=True, kw_only=True)
class RoamingImage:
    backend: ClassVar[str] = "roaming"
    control: str
    memory: int = 0


class SlowBackend(Backend[Any]):
    name: ClassVar[str] = "slowbox"
    image: ClassVar[type[Any]] = SlowImage

    async def open(self) -> None:
        if Path(os.environ.get("SLOWBOX_AWAY", "/nowhere/at/all")).exists():
            raise BackendUnavailable("slowbox is away")

    def memory(self, image: Any) -> int:
        if image.memory < 0:
            raise ZeroDivisionError("slowbox has a bug")
        return image.memory

    async def spawn(self, machine: str, image: Any, *, load: Mapping[str, int]) -> Spawned:
        control = Path(image.control)
        with (control / "spawned").open("a") as file:
            file.write(f"{machine} {self.node.name}\n")
        while (control / "hold").exists():
            await asyncio.sleep(0.02)
        self._here(control)
        if (control / "broken").exists():
            raise MachineFailed("slowbox is broken")
        if (control / "bug").exists():
            raise ZeroDivisionError("slowbox has a bug")
        folder = control / "machines" / machine
        folder.mkdir(parents=True, exist_ok=True)
        (self.node.folder / machine).write_text(str(control))
        return Spawned({"folder": str(folder), "control": str(control)})

    async def exec(self, data: Data, argv: list[str], *, user: str = "agent", stdin: bytes = b"") -> Completed:
        self._here(Path(data["control"]))
        if not Path(data["folder"]).is_dir():
            raise MachineLost("its folder is gone")
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=data["folder"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return Completed(process.returncode, out, err)

    async def write(
        self, data: Data, path: str, content: bytes, *, mode: int | None = None, user: str = "agent"
    ) -> None:
        Path(path).write_bytes(content)

    async def read(
        self, data: Data, path: str, *, user: str = "agent", offset: int = 0, limit: int | None = None
    ) -> bytes:
        if path.endswith("bug"):
            raise ZeroDivisionError("slowbox has a bug")
        return Path(path).read_bytes()

    async def stop(self, data: Data) -> None:
        self._here(Path(data["control"]))
        await asyncio.to_thread(shutil.rmtree, data["folder"], ignore_errors=True)
        (self.node.folder / Path(data["folder"]).name).unlink(missing_ok=True)

    async def made(self) -> dict[str, Data]:
        return {
            each.name: {"folder": f"{each.read_text()}/machines/{each.name}", "control": each.read_text()}
            for each in self.node.folder.iterdir()
        }

    def workdir(self, data: Data) -> str:
        return data["folder"]

    @staticmethod
    def _here(control: Path) -> None:
        if (control / "away").exists():
            raise BackendUnavailable("slowbox is away")


class RoamingBackend(SlowBackend):
    name: ClassVar[str] = "roaming"
    image: ClassVar[type[Any]] = RoamingImage
    anywhere: ClassVar[bool] = True
