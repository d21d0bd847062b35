"""`regrow cp`: files and folders between this computer and a machine, with the rules of `cp -r`.

A folder that is copied to an existing folder becomes one in it, by its own name; to a name that is not there, it gets
that name. `FOLDER/.` is what is in the folder. A file that is copied to a folder keeps its name.
"""

from __future__ import annotations

import asyncio
import posixpath
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from regrow.machines import Machine

from .errors import CopyFailed, UsageError


class Place(NamedTuple):
    """One side of a copy.

    Attributes:
        machine: what was given for it; empty: this computer.
        path: the path there.
    """

    machine: str
    path: str


def place(given: str) -> Place:
    """`MACHINE:PATH`, or a path of this computer: without a colon, or with a slash before it.

    A machine without a path is its workdir.

    Raises:
        UsageError: it is empty.
    """
    machine, colon, path = given.partition(":")
    if not colon or "/" in machine or not machine:
        machine, path = "", given
    if not path and not machine:
        raise UsageError("An empty path is none", hint="a path, or MACHINE:PATH")
    return Place(machine, path or ".")


def sides(source: str, target: str) -> tuple[Place, Place]:
    """Both sides, one of which is a machine.

    Raises:
        UsageError: it is not so.
    """
    both = place(source), place(target)
    if both[0].machine and both[1].machine:
        raise UsageError("Both are machines", hint="copy to this computer first")
    if not both[0].machine and not both[1].machine:
        raise UsageError("Neither is a machine", hint="one of them is MACHINE:PATH")
    return both


async def put(box: Machine, source: str, target: str, user: str) -> None:
    """Copy from this computer to a machine.

    Raises:
        CopyFailed: there is no such file here, or it cannot be read.
        MachineError: the machine cannot take it.
    """
    local = Path(source)
    folder = await asyncio.to_thread(local.is_dir)
    if not folder and not await asyncio.to_thread(local.exists):
        raise CopyFailed(f"There is no {source} on this computer")
    into = target.endswith("/") or await _is_folder(box, target, user)
    if into and not (folder and _content_only(source)):
        name = (await asyncio.to_thread(local.resolve)).name
        target = posixpath.join(target, name)
    try:
        await box.put(local, target, user=user)
    except OSError as error:
        raise _problem(error, source) from error


async def get(box: Machine, source: str, target: str, user: str) -> None:
    """Copy from a machine to this computer.

    Raises:
        CopyFailed: it cannot be written here.
        MachineError: the machine has no such file, or it must not be read.
    """
    local = Path(target)
    into = target.endswith("/") or await asyncio.to_thread(local.is_dir)
    if into and not (_content_only(source) and await _is_folder(box, source, user)):
        name = PurePosixPath(posixpath.normpath(source)).name
        if not name or name == "..":
            raise UsageError(
                f"{source!r} names no file to copy into {target}", hint=f"write {source}/. for what is in it"
            )
        local /= name
    try:
        await box.get(source, local, user=user)
    except OSError as error:
        raise _problem(error, str(local)) from error


def _content_only(path: str) -> bool:
    return path == "." or path.endswith("/.")


async def _is_folder(box: Machine, path: str, user: str) -> bool:
    return (await box.exec(["test", "-d", path], user=user)).ok


def _problem(error: OSError, path: str) -> Exception:
    """What happened here as an error of ours; what the machine said is one already."""
    from regrow.machines import MachineError

    if isinstance(error, MachineError):
        return error
    return CopyFailed(f"{error.filename or path} on this computer: {error.strerror or error}")
