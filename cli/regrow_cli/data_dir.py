"""The data folder of an embedded stack: where it is, that it is private, and what each file in it means.

One folder, one stack. It is `--data`, else `REGROW_HOME`, else `~/.regrow`; mode 0700, since it holds the credentials
and all data. Two spellings of one folder (links, relative paths) are one folder.

Files:
    stack.json     0600; exists while a stack is ready: `StackInfo`.
    stack.lock     locked (flock) for the life of the stack; contains its `Identity`.
    stack.gate     locked by whoever decides whether a stack starts or stops.
    stack.wanted   touched by whoever asks for the stack; contains `keep` when it shall stay until it is stopped.
    endpoint.json  0600; ports and credentials, kept over restarts so that connected programs come back by themselves.
    gateway.json   0600; the port of the agent-gateway, kept over restarts.
    children.json  the stack's child processes, to find them when the stack itself was killed.
    nats/          the JetStream store.
    machines/      what machines of this computer keep on its disk.
    logs/          one file per process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from .errors import DataDirUnusable, StackTimeout
from .os_process import Identity, is_alive

T = TypeVar("T")
STACK_USER = "stack"
"""The NATS user of what the stack runs itself: by it, the stack tells its own connections from those of programs."""
_POLL = 0.02


class StackInfo(Struct, frozen=True):
    """A stack that is ready.

    Attributes:
        url: of the NATS server, with credentials.
        pid: of the stack process.
        data: the absolute path of its folder.
        monitor: URL of the NATS server's monitoring.
        started: seconds since 1970.
        version: of Regrow.
        process: the stack process, to tell it from a later one with the same pid.
    """

    url: str
    pid: int
    data: str
    monitor: str
    started: float
    version: str
    process: Identity


class ChildRecord(Struct, frozen=True):
    """A child process of the stack, in `children.json`.

    Attributes:
        restarts: how often it has been started again.
        since: of this run, seconds since 1970.
        last_exit: how the run before ended, or empty.
    """

    name: str
    process: Identity
    restarts: int = 0
    since: float = 0.0
    last_exit: str = ""


class DataDir:
    """The paths of one data folder, and the few things done with them that need care."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info = path / "stack.json"
        self.lock = path / "stack.lock"
        self.gate = path / "stack.gate"
        self.wanted = path / "stack.wanted"
        self.endpoint = path / "endpoint.json"
        self.gateway = path / "gateway.json"
        self.children = path / "children.json"
        self.store = path / "nats"
        self.machines = path / "machines"
        self.logs = path / "logs"

    def running(self) -> StackInfo | None:
        """The stack that is ready here; None when there is none, or it is still starting."""
        info = read(self.info, StackInfo)
        return info if info and is_alive(info.process) and self.locked() else None

    def locked(self) -> bool:
        """Whether a stack process lives here, ready or not."""
        try:
            fd = os.open(self.lock, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            # Shared: two who look at once do not take each other for a stack.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    @contextlib.contextmanager
    def gated(self, deadline: float) -> Generator[None]:
        """Be the only one who decides about the stack; waits for it until `deadline` (monotonic), blocking.

        Raises:
            StackTimeout: somebody else held it until then.
        """
        fd = os.open(self.gate, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not try_lock(fd):
                if time.monotonic() >= deadline:
                    raise StackTimeout(
                        f"Another program has been starting or stopping the stack in {self.path} for too long",
                        hint=f"look into {self.logs / 'stack.log'}, or run: regrow doctor",
                    )
                time.sleep(_POLL)
            yield
        finally:
            os.close(fd)


def resolve(data: Path | None) -> DataDir:
    """The data folder that `data`, or without it the environment, names; nothing is created.

    Raises:
        DataDirUnusable: there is no home folder to put it in.
    """
    if data is None:
        data = Path(os.environ.get("REGROW_HOME") or "~/.regrow")
    try:
        return DataDir(data.expanduser().resolve())
    except (RuntimeError, OSError) as error:
        raise DataDirUnusable(
            f"The data folder {data} cannot be found: {error}", hint="name one with --data"
        ) from error


def prepare(place: DataDir) -> None:
    """Create the folder, or make sure that the one there can hold a stack and nobody else can read it.

    Raises:
        DataDirUnusable: it is not a folder, belongs to another user, cannot be written to, or holds other things.
    """
    path, other = place.path, "name another folder with --data or REGROW_HOME"
    try:
        place.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
        if found.st_uid != os.geteuid():
            raise DataDirUnusable(f"The data folder {path} belongs to another user", hint=other)
        if stat.S_IMODE(found.st_mode) & 0o077:
            # Tightening a folder that is in use for something else would take it from its other readers.
            if not place.lock.exists() and any(path.iterdir()):
                raise DataDirUnusable(f"The folder {path} is in use for something else", hint=f"{other}, new or empty")
            path.chmod(0o700)
        if not os.access(path, os.W_OK | os.X_OK):
            raise DataDirUnusable(f"The data folder {path} cannot be written to", hint=f"chmod 700 {path}, or {other}")
        for folder in (place.logs, place.store):
            folder.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(place.lock, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise DataDirUnusable(f"The data folder {path} cannot be used: {error.strerror}", hint=other) from error


def try_lock(fd: int) -> bool:
    """Take the exclusive lock of an open file if nobody has it; held until the file is closed or the process ends."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read(path: Path, type_: type[T]) -> T | None:
    """A JSON file as `type_`; None when there is none, or it is from a version that wrote something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def write(path: Path, value: object) -> None:
    """Write JSON for the owner's eyes so that a reader sees the old content or all of the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):  # of an earlier process with our pid that was killed here
        temporary.unlink()
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.encode(value))
    temporary.replace(path)
