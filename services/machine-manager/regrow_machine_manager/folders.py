"""Folders of machines as archives in pieces, over any backend's `exec` and `read`.

The machine's own `tar` packs and unpacks; the archive is kept in the machine's state meanwhile and removed after. Where
a path really is, whatever links are on it, is looked at on the machine: it must be inside the root. A repeat does the
same again.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from regrow_protocol.machines import PART

from .backend import Backend, Completed, Data, MachineFailed
from .paths import OutsideRoot, inside

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_CHANGED = re.compile(r"[Ff]ile (changed as|removed before) we read it")

_MISSING = 3
_OUTSIDE = 4
_NO_FOLDER = 5
_LINK = 6

# `real FOLDER ROOT`: go to a folder that is there, inside the root.
_COMMON = r"""
aside() {
    umask 022
    cd "$1/folders" 2>/dev/null || { mkdir -p "$1/folders" && cd "$1/folders" && { chmod 1777 . 2>/dev/null || :; }; }
    umask 077
    rg_aside=$1/folders
}
real() {
    rg_root=$(cd "$2" && pwd -P) || exit 3
    cd "$1" 2>/dev/null || exit 3
    rg_here=$(pwd -P)
    case $rg_here/ in "${rg_root%/}"/*) ;; *) exit 4 ;; esac
}
"""

# Arguments: state folder, id, root, path. A link to a folder is packed as that.
_PACK = (
    _COMMON
    + r"""
aside "$1" || exit 1
if [ -d "$4" ]; then
    real "$4" "$3"
    tar -czf "$rg_aside/$2.tgz" .
elif [ -h "$4" ]; then
    exit 6
elif [ -e "$4" ]; then
    rg_name=${4##*/}
    real "${4%/*}/" "$3"
    tar -czf "$rg_aside/$2.tgz" "./$rg_name"
else
    exit 3
fi
"""
)

# Arguments: state folder, id, number. The input is the part.
_TAKE = _COMMON + 'aside "$1" || exit 1\ncat >"$2.in.$3"\n'

# Arguments: state folder, id, root, path, the parts' paths.
_UNPACK = (
    _COMMON
    + r"""
aside "$1" || exit 1
rg_there=$4
while [ ! -e "$rg_there" ] && [ ! -h "$rg_there" ]; do
    rg_there=${rg_there%/*}
    [ -n "$rg_there" ] || rg_there=/
done
umask 022
[ -d "$rg_there" ] || exit 5
(
    real "$rg_there" "$3"
    rg_rest=${4#"$rg_there"}
    mkdir -p "./$rg_rest" || exit 1
    real "./$rg_rest" "$3"
    shift 4
    cat -- "$@" | tar -xzof -
)
"""
)

# Arguments: state folder, id, further paths.
_CLEAN = _COMMON + 'aside "$1" || exit 1\nrm -f "$2.tgz" "$2".in.*\nshift 2\nrm -f -- "$@"\n'


class Folders:
    """Packs and unpacks folders of the machines of one backend.

    Args:
        backend: which.
    """

    def __init__(self, backend: Backend[Any]) -> None:
        self._backend = backend

    async def pack(self, data: Data, id: str, path: str, user: str) -> AsyncIterator[bytes]:  # noqa: A002
        """Pieces, of at most `machines.PART` bytes, of a gzipped tar file of what is in a folder, or of one file.

        Args:
            data: of the machine.
            id: of the operation.
            path: absolute on the machine, or relative to its workdir.
            user: as for `exec`.

        Raises:
            FileNotFoundError: there is nothing.
            OutsideRoot: it is not inside the machine's root.
            MachineFailed: it cannot be packed.
        """
        root, state, path = self._places(data, id, path)
        try:
            done = await self._exec(data, user, _PACK, state, id, root, path)
            self._look(done, path, root, "packed")
            offset = 0
            while piece := await self._backend.read(
                data, f"{state}/folders/{id}.tgz", user=user, offset=offset, limit=PART
            ):
                yield piece
                offset += len(piece)
        finally:
            await self._exec(data, user, _CLEAN, state, id)

    async def unpack(
        self,
        data: Data,
        id: str,  # noqa: A002
        path: str,
        parts: AsyncIterator[bytes],
        user: str,
    ) -> None:
        """Unpack pieces of a gzipped tar file into a folder, which is made; files there already are replaced.

        Args:
            data: of the machine.
            id: of the operation.
            path: absolute on the machine, or relative to its workdir.
            parts: the archive.
            user: as for `exec`; what is unpacked is this user's.

        Raises:
            OutsideRoot: it is not inside the machine's root.
            NotADirectoryError: something on the way is a file.
            MachineFailed: it cannot be unpacked.
        """
        root, state, path = self._places(data, id, path)
        places: list[str] = []
        try:
            async for part in parts:
                name = f"{id}.in.{len(places)}"
                place = await self._backend.stage(data, name, part, user=user)
                if not place:
                    done = await self._exec(data, user, _TAKE, state, id, str(len(places)), stdin=part)
                    self._look(done, path, root, "stored")
                places.append(place or f"{state}/folders/{name}")
            done = await self._exec(data, user, _UNPACK, state, id, root, path, *places)
            self._look(done, path, root, "unpacked")
        finally:
            await self._exec(data, user, _CLEAN, state, id, *places)

    def _places(self, data: Data, id: str, path: str) -> tuple[str, str, str]:  # noqa: A002
        """Root, state folder and the absolute path."""
        if not _ID.fullmatch(id):
            raise MachineFailed(f"{id[:80]!r} is no id of an operation")
        root = self._backend.root(data)
        return root, self._backend.state(data), inside(root, self._backend.workdir(data), path)

    async def _exec(self, data: Data, user: str, script: str, *args: str, stdin: bytes = b"") -> Completed:
        return await self._backend.exec(data, ["sh", "-c", script, "sh", *args], user=user, stdin=stdin)

    def _look(self, done: Completed, path: str, root: str, what: str) -> None:
        """Raise what the exit code says."""
        said = done.stderr.decode(errors="replace").strip()
        if done.exit_code == _MISSING:
            raise FileNotFoundError(f"{path!r} is not on the machine")
        if done.exit_code == _OUTSIDE:
            raise OutsideRoot(f"{path!r} leads out of the machine's folder {root}", hint="through a link")
        if done.exit_code == _NO_FOLDER:
            raise NotADirectoryError(f"{path!r} is below something that is no folder")
        if done.exit_code == _LINK:
            raise MachineFailed(f"{path!r} is a link to a file", hint="name the file")
        if done.exit_code == 1 and said and all(_CHANGED.search(line) for line in said.splitlines()):
            return  # files that are written while they are packed
        if done.exit_code != 0:
            raise MachineFailed(f"{path!r} cannot be {what}: exit code {done.exit_code}: {said[-500:]}")
