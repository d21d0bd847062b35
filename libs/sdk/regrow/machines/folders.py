"""Folders on their way between a machine and the host's own disk, as gzipped tar files in the object store.

An archive of a folder begins with the folder itself, as `.`; that of a single file holds just it.
"""

from __future__ import annotations

import asyncio
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from regrow_protocol.machines import PART

from .. import scope


async def upload(local: str, name: str) -> list[str]:
    """Archive a file or folder into the object store.

    Args:
        local: path on this host.
        name: of the entry, when it is a file.

    Returns:
        Keys of the archive's parts, in order.
    """
    bus = scope.bus.get()
    parts: list[str] = []
    with tempfile.TemporaryFile() as file:
        await asyncio.to_thread(_pack, Path(local), name, file)
        while part := await asyncio.to_thread(file.read, PART):
            parts.append(await bus.put_value(part))
    return parts


def _pack(source: Path, name: str, file: IO[bytes]) -> None:
    if not source.exists():
        raise FileNotFoundError(f"There is no {source} on this host")
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
        archive.add(source, "." if source.is_dir() else name)
    file.seek(0)


async def download(parts: list[str], local: str) -> None:
    """Unpack an archive from the object store: a folder's content into the folder `local`, a file as `local`."""
    bus = scope.bus.get()
    with tempfile.TemporaryFile() as file:
        for part in parts:
            await asyncio.to_thread(file.write, await bus.get_value(part))
        await asyncio.to_thread(_unpack, file, Path(local))


def _unpack(file: IO[bytes], target: Path) -> None:
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:gz") as archive:
        first = archive.next()
        if first is None:
            target.mkdir(parents=True, exist_ok=True)
        elif first.isfile():
            content = archive.extractfile(first)
            assert content is not None
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                while block := content.read(1024 * 1024):
                    out.write(block)
            target.chmod(first.mode & 0o777)
        else:
            target.mkdir(parents=True, exist_ok=True)
            archive.extractall(target, filter="data")
