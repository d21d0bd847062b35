"""Where the NATS server stages atomic batches: in memory, when it stores its streams on a disk of this machine.

A batch to an unreplicated stream in file storage is first written to a small store of its own, `<stream>/batches/<id>`;
creating its files costs more than the batch itself (2 ms, five times that on a busy disk). This keeps `batches` of
every stream a link to a folder on a tmpfs. What is staged is not acknowledged yet, and a restart of the server drops it
anyway, so no promise changes: a batch is acknowledged when it stands in the stream's own files, synced. Where it cannot
be done (no tmpfs), batches are only slower. ADR 0008.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import threading
import time
from pathlib import Path

log = logging.getLogger("regrow.staging")

_SHM = Path("/dev/shm")  # noqa: S108 - the folder inside is ours alone
_FREE = 64 * 1024 * 1024
_STORE = "store"
_EVERY, _AT_FIRST = 0.5, 0.05


class BatchStaging:
    """Links the `batches` folders of the streams in `store_dir`, those of new streams too, until it is closed."""

    def __init__(self, store_dir: Path) -> None:
        self._streams = store_dir / "jetstream"
        name = hashlib.blake2b(str(store_dir.resolve()).encode(), digest_size=8).hexdigest()
        self._memory = _SHM / f"regrow-{os.getuid()}-{name}"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, where this machine has a tmpfs with some space."""
        if sys.platform != "linux" or os.environ.get("REGROW_BATCH_STAGING", "") == "disk":
            return
        try:
            if shutil.disk_usage(_SHM).free < _FREE:
                return
            self._memory.mkdir(mode=0o700, exist_ok=True)
            if self._memory.stat().st_uid != os.getuid():
                return
            (self._memory / _STORE).write_text(str(self._streams))
            _sweep()
        except OSError as error:
            log.info("batches are staged on disk: %s", error)
            return
        self.link()
        self._thread = threading.Thread(target=self._watch, name="regrow-staging", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; the server does not run any more."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join(5)
        self._thread = None
        shutil.rmtree(self._memory, ignore_errors=True)

    def link(self) -> None:
        """Link what is not linked yet."""
        for stream in self._streams.glob("*/streams/*"):
            batches = stream / "batches"
            target = self._memory / f"{stream.parent.parent.name}-{stream.name}"
            # Another may be faster, and a batch may be under way: the next look will do.
            with contextlib.suppress(OSError):
                target.mkdir(mode=0o700, exist_ok=True)
                if batches.is_symlink():
                    if batches.readlink() != target:
                        batches.unlink()
                        batches.symlink_to(target)
                    continue
                if batches.exists():
                    batches.rmdir()
                batches.symlink_to(target)

    def _watch(self) -> None:
        looks = 0
        while not self._stop.wait(_AT_FIRST if looks < 100 else _EVERY):
            looks += 1
            self.link()


def _sweep() -> None:
    """Remove what servers left behind whose store is gone too."""
    for left in _SHM.glob(f"regrow-{os.getuid()}-*"):
        with contextlib.suppress(OSError):
            if not Path((left / _STORE).read_text()).exists() and left.stat().st_mtime < time.time() - 60:
                shutil.rmtree(left)
