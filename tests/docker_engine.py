"""A real Docker engine for tests, and a small image for it that is made here: no registry is needed.

The engine is the one that answers already (`$DOCKER_HOST` or the default socket). Where none does, and we are root and
Debian's `docker.io` is installed, it is one of our own that all workers of a test run share: the first to need it
starts it, and each holds a pipe open as long as it lives. When the last has closed it, killed ones included, the
keeper (a shell beside the engine) ends the engine and removes what it left.

An engine of our own changes nothing on the machine: it has its own folders, namespace and bridge, and leaves iptables
and forwarding alone. So its containers reach the machine and each other, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
import pytest_asyncio
import requests
from regrow_machine_manager.backend import Node
from regrow_machine_manager.backends.docker import DockerBackend

IMAGE = "regrow-test-machine:1"
"""Of `base_image`: busybox, and a user `agent` (1000)."""

_STARTUP = 60.0  # seconds
_BUSYBOX = "/bin/busybox"
_KEEPER = """
trap '' INT HUP
cat "$DIR/users" >/dev/null
engine=$(cat "$DIR/pid")
kill "$engine"
tries=0
while grep -q '^State:.*[^Z] (' "/proc/$engine/status" && [ $tries -lt 600 ]; do sleep 0.05; tries=$((tries + 1)); done
kill -9 "$engine"
left=$BRIDGE
for other in /sys/class/net/br-*; do # of networks that a killed test has made
    other=${other##*/}
    if grep -qa "${other#br-}" "$DIR/data/network/files/local-kv.db"; then left="$left $other"; fi
done
"$PYTHON" "$MODULE" $left
while read -r _ place _; do
    case $place in "$DIR"/*) umount -l "$place" ;; esac
done </proc/mounts
rm -rf "$DIR"
"""


class NoEngine(Exception):
    """Why there is no engine."""


@dataclass
class Engine:
    """An engine that answers.

    Attributes:
        url: as in `$DOCKER_HOST`.
        ours: it was started for the tests, with its folder.
    """

    url: str
    ours: Path | None = None

    def client(self, timeout: int = 60) -> docker.APIClient:
        """A client of the engine's own SDK; to be closed."""
        return docker.APIClient(base_url=self.url, version="auto", timeout=timeout)

    @property
    def pid(self) -> int:
        """Of an engine of ours."""
        assert self.ours is not None
        return int((self.ours / "pid").read_text())


def answers(url: str) -> bool:
    """Whether an engine answers there."""
    path = url.removeprefix("unix://")
    if path != url and not _listens(path):  # the SDK would leave a socket open
        return False
    try:
        client = docker.APIClient(base_url=url, version="auto", timeout=10)
    except (docker.errors.DockerException, requests.exceptions.RequestException):
        return False
    client.close()
    return True


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as trial:
        return trial.connect_ex(path) == 0


def live() -> Engine | None:
    """The machine's own engine."""
    url = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    return Engine(url) if answers(url) else None


def command(folder: Path, bridge: str) -> list[str]:
    """Of an engine with all that is its own in `folder`."""
    return [
        "dockerd",
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--host=unix://{folder}/sock",
        f"--pidfile={folder}/dockerd.pid",
        f"--config-file={folder}/daemon.json",
        f"--containerd-namespace={bridge}",
        f"--containerd-plugins-namespace={bridge}-plugins",
        f"--bridge={bridge}",
        "--iptables=false",
        "--ip-masq=false",
        "--ip-forward=false",
        "--ip6tables=false",
    ]


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[Engine]:
    """The engine of all who name the same `folder`, while at least one of them is inside.

    Raises:
        NoEngine: none answers, and none can be started.
    """
    found = live()
    if found is not None:
        yield found
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise NoEngine("no Docker engine answers, and to start one takes root and Debian's docker.io")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "failed").exists():
            raise NoEngine((folder / "failed").read_text())
        engine, user = _join(folder) or _start(folder)
    with (folder / "inside").open("w") as inside:
        fcntl.flock(inside, fcntl.LOCK_SH)
        try:
            yield engine
        finally:
            os.close(user)
            with contextlib.suppress(BlockingIOError):  # others are still inside
                fcntl.flock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)
                ended(engine)


def ended(engine: Engine) -> None:
    """Wait for the end of an engine of ours that nobody uses any more, and for what it leaves to be removed."""
    assert engine.ours is not None
    deadline = time.monotonic() + _STARTUP
    while engine.ours.exists():
        assert time.monotonic() < deadline, f"the engine in {engine.ours} does not end"
        time.sleep(0.02)


@contextlib.contextmanager
def own() -> Iterator[Engine]:
    """An engine of ours for one test only, which may stop and kill it (`restarted`).

    Raises:
        NoEngine: none can be started.
    """
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise NoEngine("to start a Docker engine takes root and Debian's docker.io")
    with tempfile.TemporaryDirectory() as folder:
        engine, user = _start(Path(folder))
        try:
            yield engine
        finally:
            os.close(user)
            ended(engine)


@contextlib.asynccontextmanager
async def restarted(engine: Engine, how: signal.Signals) -> AsyncIterator[None]:
    """End an engine of ours, do what is inside, and start it again."""
    assert engine.ours is not None
    below = engine.ours / "exec/containerd/containerd.pid"
    processes = [engine.pid, *([int(below.read_text())] if below.exists() else [])]
    os.kill(engine.pid, how)
    while any(map(runs, processes)):
        await asyncio.sleep(0.01)
    yield
    # A killed one leaves these, and may stay a zombie that its successor takes for itself or its containerd.
    for left in ("sock", "dockerd.pid", "exec/containerd/containerd.pid"):
        (engine.ours / left).unlink(missing_ok=True)
    _run(engine)
    while not answers(engine.url):
        await asyncio.sleep(0.01)


def _join(folder: Path) -> tuple[Engine, int] | None:
    current = folder / "current"
    if not current.is_symlink():
        return None
    home = current.readlink()
    try:
        user = os.open(home / "users", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # nobody reads it: that engine is ending
        return None
    return Engine(f"unix://{home}/sock", home), user


def _start(folder: Path) -> tuple[Engine, int]:
    # Unix sockets' paths are short: not below pytest's folder.
    home = Path(tempfile.mkdtemp(prefix="rgd"))
    bridge = f"rg{secrets.token_hex(4)}"  # also a namespace of containerd: no underscores
    (home / "daemon.json").write_text("{}")
    os.mkfifo(home / "users")
    (home / "bridge").write_text(bridge)
    engine = Engine(f"unix://{home}/sock", home)
    try:
        make_bridge(bridge)
        environment = {**os.environ, "DIR": str(home), "PYTHON": sys.executable, "MODULE": __file__, "BRIDGE": bridge}
        _detached(["sh", "-c", _KEEPER, "keeper"], environment)
        _run(engine)
    except OSError as error:
        remove_bridge(bridge)
        shutil.rmtree(home)
        raise NoEngine(f"a Docker engine cannot be started here: {error}") from error
    user = os.open(home / "users", os.O_WRONLY)  # waits for the keeper
    deadline = time.monotonic() + _STARTUP
    while not answers(engine.url):
        log = (home / "log").read_text() if (home / "log").exists() else ""
        if time.monotonic() > deadline or not alive(engine):
            os.close(user)
            ended(engine)
            why = f"dockerd does not start here: {log[-600:]}"
            (folder / "failed").write_text(why)
            raise NoEngine(why)
        time.sleep(0.02)
    current = folder / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(home)
    return engine, user


def _run(engine: Engine) -> None:
    """Start dockerd."""
    assert engine.ours is not None
    (engine.ours / "pid").unlink(missing_ok=True)
    script = 'echo $$ >"$0/pid.new"; mv "$0/pid.new" "$0/pid"; exec "$@" >>"$0/log" 2>&1'
    arguments = command(engine.ours, (engine.ours / "bridge").read_text())
    _detached(["sh", "-c", script, str(engine.ours), *arguments], dict(os.environ))
    deadline = time.monotonic() + _STARTUP
    while not (engine.ours / "pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _detached(argv: list[str], environment: dict[str, str]) -> None:
    """Start a program that is nobody's child: a shell in between ends."""
    subprocess.run(
        ["sh", "-c", '"$@" &', "sh", *argv],
        env=environment, check=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def alive(engine: Engine) -> bool:
    """Whether an engine of ours runs."""
    return runs(engine.pid)


def runs(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# A bridge, as `ip link add NAME type bridge` makes it; iproute2 may be absent ----------------------------------------


def make_bridge(name: str) -> None:
    """Make the bridge with an address of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x89A0, name.encode() + b"\0")  # SIOCBRADDBR
        taken = Path("/proc/net/fib_trie").read_text()
        network = next(n for n in range(17, 250) if f"10.213.{n}." not in taken)
        for request, address in ((0x8916, f"10.213.{network}.1"), (0x891C, "255.255.255.0")):  # SIOCSIF{ADDR,NETMASK}
            packed = struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0, socket.inet_aton(address))
            fcntl.ioctl(control, request, packed)
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", name.encode(), 0x1))  # SIOCSIFFLAGS, IFF_UP


def remove_bridge(name: str) -> None:
    """Remove the bridge; one that is gone already is fine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control, contextlib.suppress(OSError):
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", name.encode(), 0))
        fcntl.ioctl(control, 0x89A1, name.encode() + b"\0")  # SIOCBRDELBR


# The image ------------------------------------------------------------------------------------------------------------


def tar(entries: dict[str, tuple[int, bytes | str | None, int]]) -> bytes:
    """A tar of path → (mode, content of a file or None for a folder or the target of a link as text, uid)."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path, (mode, content, uid) in entries.items():
            entry = tarfile.TarInfo(path)
            entry.mode, entry.uid, entry.gid = mode, uid, uid
            if content is None:
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def root_filesystem() -> bytes:
    """Busybox with all its names, and two users."""
    names = subprocess.run([_BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    return tar({
        **dict.fromkeys(("bin", "etc", "home", "root", "var", "var/lib", "usr"), (0o755, None, 0)),
        "tmp": (0o1777, None, 0),
        "agent": (0o755, None, 1000),
        "bin/busybox": (0o755, Path(_BUSYBOX).read_bytes(), 0),
        **{f"bin/{name}": (0o777, "busybox", 0) for name in names if name != "busybox"},
        "etc/passwd": (0o644, b"root:x:0:0::/:/bin/sh\nagent:x:1000:1000::/agent:/bin/sh\n", 0),
        "etc/group": (0o644, b"root:x:0:\nagent:x:1000:\n", 0),
    })  # fmt: skip


def base_image(engine: Engine) -> str:
    """`IMAGE`, made unless it is there.

    Raises:
        NoEngine: there is no busybox to make it of.
    """
    client = engine.client()
    try:
        if client.images(IMAGE, quiet=True):
            return IMAGE
        if not Path(_BUSYBOX).exists() or b"statically" not in _kind(_BUSYBOX):
            raise NoEngine("the tests' image is made of Debian's busybox-static, which is not installed")
        repository, tag = IMAGE.split(":")
        client.import_image_from_data(root_filesystem(), repository=repository, tag=tag, changes=["ENV PATH=/bin"])
    finally:
        client.close()
    return IMAGE


def _kind(program: str) -> bytes:
    """`statically` for a program that needs no loader (it has no PT_INTERP)."""
    head = Path(program).read_bytes()[: 64 * 1024]
    offset, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
    kinds = [struct.unpack_from("<I", head, offset + size * i)[0] for i in range(count)]
    return b"dynamically" if 3 in kinds else b"statically"


@contextlib.contextmanager
def engine_for(factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """For a session's fixture: the engine with the image, or a skip that says why not."""
    base = factory.getbasetemp()
    run = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    try:
        with shared(run / "docker") as engine:
            base_image(engine)
            yield engine
    except NoEngine as error:
        pytest.skip(str(error))


# Fixtures, to be imported ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The engine of this run, with the image; skips where there can be none."""
    with engine_for(tmp_path_factory) as engine:
        yield engine


@pytest.fixture
def docker_client(docker_engine: Engine) -> Iterator[docker.APIClient]:
    """The SDK's client, to look and to do harm with."""
    client = docker_engine.client()
    yield client
    client.close()


@pytest_asyncio.fixture
async def docker_backend(
    docker_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DockerBackend]:
    """A backend of a node of its own; what it made is removed with it."""
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    async with opened(tmp_path, volumes=(str(tmp_path), "/no/such")) as backend:
        yield backend


@contextlib.asynccontextmanager
async def opened(
    folder: Path, node: str = "", store: str = "", volumes: Sequence[str] = (), *, host_network: bool = False
) -> AsyncIterator[DockerBackend]:
    """A backend for the engine of $DOCKER_HOST, which must answer at the end, too."""
    backend = DockerBackend(Node(node or secrets.token_hex(6), folder, store, volumes, host_network))
    await backend.open()
    try:
        yield backend
    finally:
        for data in (await backend.made()).values():
            await backend.stop(data)
        client = docker.APIClient(base_url=os.environ["DOCKER_HOST"], version="auto")
        for image in client.images(filters={"label": f"regrow.node={backend.node.name}"}):
            client.remove_image(image["Id"], force=True)
        client.close()
        await backend.close()


if __name__ == "__main__":  # the keeper's last deed
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in sys.argv[1:]:
        remove_bridge(name)
