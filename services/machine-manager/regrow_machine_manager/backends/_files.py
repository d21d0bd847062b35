"""Files of a folder that others change meanwhile: never outside it, whatever links they put in the way.

What is opened is looked at after it is opened: where it really is says `/proc/self/fd`, and that does not change any
more. From there on folders are made and files renamed by the open folder, not by path. A file is written aside and
renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..backend import MachineFailed
from ..paths import OutsideRoot

Account = tuple[int, int, list[int]]
"""User id, group id and further groups."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def _opened(root: Path, path: str, flags: int) -> Generator[int]:
    """What `path` leads to, open, when that is inside `root`."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        real = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - text
        top = os.path.realpath(root)
        if real != top and not real.startswith(top.rstrip("/") + "/"):
            raise OutsideRoot(f"{path!r} leads out of the machine's folder {root}", hint="through a link")
        yield fd
    finally:
        os.close(fd)


def read(root: Path, path: str, offset: int, limit: int | None) -> bytes:
    """Bytes of a regular file.

    Raises:
        OutsideRoot: a link leads out of the root.
        FileNotFoundError, IsADirectoryError, PermissionError: as the system says.
    """
    with _opened(root, path, os.O_RDONLY) as fd:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(f"{path!r} is a folder")
        if not stat.S_ISREG(found.st_mode):
            raise MachineFailed(f"{path!r} is no regular file")
        left = max(0, found.st_size - offset) if limit is None else limit
        pieces: list[bytes] = []
        while left > 0 and (piece := os.pread(fd, min(left, 1 << 20), offset)):
            pieces.append(piece)
            offset += len(piece)
            left -= len(piece)
        return b"".join(pieces)


def write(root: Path, path: str, content: bytes, mode: int | None, owner: Account | None) -> None:
    """Write a file, and the folders above it, which then belong to `owner`.

    Without a mode, a file that is there keeps its own, and a new one has 0644.

    Raises:
        OutsideRoot: a link leads out of the root.
        NotADirectoryError, IsADirectoryError, PermissionError: as the system says.
    """
    folder, name = os.path.split(path)
    for _ in range(8):
        try:
            target = os.readlink(path)  # noqa: PTH115 - text
        except OSError:
            break  # it is no link, or not there
        path = os.path.normpath(os.path.join(folder, target))  # noqa: PTH118 - a path of the machine
        folder, name = os.path.split(path)
    missing: list[str] = []
    while not os.path.lexists(folder):
        folder, last = os.path.split(folder)
        missing.append(last)
    with _opened(root, folder, _FOLDER) as top:
        here = os.dup(top)
        try:
            for last in reversed(missing):
                try:
                    os.mkdir(last, 0o755, dir_fd=here)
                    if owner is not None:
                        os.chown(last, owner[0], owner[1], dir_fd=here, follow_symlinks=False)
                except FileExistsError:
                    pass  # made by somebody meanwhile
                inner = os.open(last, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = inner
            _replace(here, name, content, mode, owner)
        finally:
            os.close(here)


def _replace(folder: int, name: str, content: bytes, mode: int | None, owner: Account | None) -> None:
    try:
        old = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        old = None
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(f"{name!r} is a folder")
    if mode is None:
        mode = stat.S_IMODE(old.st_mode) if old is not None and stat.S_ISREG(old.st_mode) else 0o644
    aside = f".regrow-{secrets.token_hex(8)}"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            if owner is not None:
                os.fchown(fd, owner[0], owner[1])
            os.fchmod(fd, mode)
        os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.unlink(aside, dir_fd=folder)
        raise


def copy(source: Path, target: Path) -> None:
    """Copy a folder with all that is in it: modes, times, owners, links; blocks are shared where the system can."""
    if not source.is_dir():
        raise MachineFailed(f"There is nothing to copy in {source}", hint="was the snapshot dropped?")
    done = subprocess.run(  # noqa: S603 - called in a thread
        ["/bin/cp", "-a", "--reflink=auto", "-T", "--", str(source), str(target)], capture_output=True, check=False
    )
    if done.returncode != 0:
        raise MachineFailed(f"{source} cannot be copied: {done.stderr.decode(errors='replace').strip()[-500:]}")


def give(path: Path, account: Account) -> None:
    """Let a folder, not what is in it, belong to a user."""
    os.chown(path, account[0], account[1])


def remove(path: Path) -> None:
    """Remove a folder, whatever modes are in it; none is fine.

    It is renamed before, so that what is half removed is not taken for whole.
    """
    aside = path.with_name(f".removing.{path.name}.{secrets.token_hex(4)}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return

    def open_up(_: object, name: str, error: object) -> None:
        if isinstance(error, tuple) and isinstance(error[1], PermissionError):
            Path(name).parent.chmod(0o700)
            Path(name).unlink()
            return
        raise MachineFailed(f"{name} cannot be removed: {error}")

    shutil.rmtree(aside, onerror=open_up)
