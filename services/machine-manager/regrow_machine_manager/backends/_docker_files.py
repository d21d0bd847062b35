"""Files of a container: small POSIX scripts that run there as the user, so that the user's permissions hold.

A file is written beside its place and renamed, when as many bytes have come as there should be: a connection that
breaks leaves the old file. It keeps its mode, and a link is followed.
"""

from __future__ import annotations

import io
import tarfile

from ..backend import Completed, MachineFailed

WRITE = """
LC_ALL=C; export LC_ALL
t=$1
if [ -L "$t" ]; then t=$(readlink -f "$t") || exit 1; fi
if [ -d "$t" ]; then echo 'Is a directory' >&2; exit 1; fi
if [ -e "$t" ] && [ ! -f "$t" ]; then echo 'It is no ordinary file' >&2; exit 1; fi
mkdir -p "${t%/*}/" || exit 1
new="${t%/*}/.regrow-$2" mode=$3
if [ -z "$mode" ] && [ -e "$t" ]; then mode=$(stat -c %a "$t") || exit 1; fi
if cat >"$new" && { [ -z "$mode" ] || chmod "$mode" "$new"; }; then
    if [ "$(($(wc -c <"$new")))" -ne "$4" ]; then echo 'The connection broke' >&2
    elif mv -f "$new" "$t"; then exit 0
    fi
fi
rm -f "$new"
exit 1
"""
"""Arguments: path, a word that makes the new file's name unique, mode in octal or nothing, bytes."""

READ = """
LC_ALL=C; export LC_ALL
if [ -d "$1" ]; then echo 'Is a directory' >&2; exit 1; fi
if [ -e "$1" ] && [ ! -f "$1" ]; then echo 'It is no ordinary file' >&2; exit 1; fi
exec <"$1" || exit 1
if [ "$2" -gt 0 ]; then
    if [ -z "$3" ]; then exec tail -c +"$(($2 + 1))"; fi
    tail -c +"$(($2 + 1))" | head -c "$3"
elif [ -z "$3" ]; then exec cat
else exec head -c "$3"
fi
"""
"""Arguments: path, offset, bytes at most or nothing."""


def archive(name: str, content: bytes, owner: tuple[int, int]) -> bytes:
    """A tar file with one file, of this user and group and for nobody else."""
    found = io.BytesIO()
    with tarfile.open(fileobj=found, mode="w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o600
        info.uid, info.gid = owner
        tar.addfile(info, io.BytesIO(content))
    return found.getvalue()


def check(done: Completed, path: str) -> None:
    """Raise what the script's failure means.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError, MachineFailed
    """
    if done.exit_code == 0:
        return
    said = done.stderr.decode(errors="replace").strip()
    for words, error in _MEANINGS.items():
        if words in said.lower():
            raise error(f"{path}: {said.rpartition(': ')[2]}")
    raise MachineFailed(f"{path}: {said or f'exit code {done.exit_code}'}", hint="see what the machine said")


_MEANINGS: dict[str, type[OSError]] = {
    "permission denied": PermissionError,
    "read-only file system": PermissionError,
    "operation not permitted": PermissionError,
    "is a directory": IsADirectoryError,
    "no such file": FileNotFoundError,
    "nonexistent directory": FileNotFoundError,  # of busybox
    "not a directory": FileNotFoundError,
}
"""What programs say, in small letters: shells have words of their own."""
