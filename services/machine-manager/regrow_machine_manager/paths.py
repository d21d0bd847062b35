"""Which paths on a machine may be read and written: those inside its root, as far as their text says."""

from __future__ import annotations

import posixpath

from regrow_protocol.errors import RegrowError

MAX_PATH = 4096


class OutsideRoot(RegrowError):
    """A path that leads out of the machine's root, or is none."""

    code = "outside-root"


def inside(root: str, workdir: str, path: str) -> str:
    """The absolute path on the machine of `path`, which is absolute or relative to `workdir`.

    Raises:
        OutsideRoot: it is not under `root`, or no path at all.
    """
    if not path or "\0" in path or len(path.encode()) > MAX_PATH:
        raise OutsideRoot(f"{path[:80]!r} is no path", hint=f"1 to {MAX_PATH} bytes, none of them NUL")
    absolute = posixpath.normpath(posixpath.join(workdir, path))
    if absolute.startswith("//"):
        absolute = absolute[1:]
    root = posixpath.normpath(root)
    if absolute != root and not absolute.startswith(root.rstrip("/") + "/"):
        raise OutsideRoot(f"{path!r} is outside the machine's folder {root}", hint="give a path under it")
    return absolute
