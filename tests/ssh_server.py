"""Real sshd on loopback ports, with a login that is made for the tests and removed after them.

`Login.make()` gives a system user with a home of its own; who may not make users gets a login of oneself, with a home
in the temporary folder. `SSHServer` is one sshd with host keys, configuration and log of its own; several of them are
several hosts.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from regrow_protocol.images import SSHImage
from regrow_protocol.ports import free_port

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
KEYGEN = shutil.which("ssh-keygen")


def need_sshd() -> None:
    """Skip the test where there is no SSH server."""
    if not Path(SSHD).exists() or not KEYGEN:
        pytest.skip("no sshd: install openssh-server")


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Wait for a condition; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen in {seconds} s")
        time.sleep(0.01)


def keygen(path: Path) -> Path:
    """Make a key pair; the private one is at `path`."""
    subprocess.run([str(KEYGEN), "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def running(uid: int) -> list[psutil.Process]:
    """The processes of a user, without those that have ended and that nobody waited for yet."""
    found = psutil.process_iter(["uids", "status"])
    return [
        p for p in found if p.info["uids"] and p.info["uids"].real == uid and p.info["status"] != psutil.STATUS_ZOMBIE
    ]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_all(uid: int) -> None:
    """End all processes of a user that was made for the tests."""
    for process in running(uid):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    until(lambda: not running(uid), "the end of a user's processes")


@dataclass
class Login:
    """Who logs in.

    Attributes:
        name: of the user.
        home: of the user.
        folder: for keys and servers.
        key: private key that `authorized_keys` lets in.
        own: the user was made for the tests.
    """

    name: str
    home: Path
    folder: Path
    key: Path
    own: bool

    @property
    def uid(self) -> int:
        return pwd.getpwnam(self.name).pw_uid

    def processes(self) -> list[psutil.Process]:
        """All that runs as this user."""
        return running(self.uid)


@contextlib.contextmanager
def make_login() -> Iterator[Login]:
    """See the module."""
    need_sshd()
    folder = Path(tempfile.mkdtemp(prefix="regrow-ssh-"))
    folder.chmod(0o711)
    home = folder / "home"
    own = os.geteuid() == 0 and shutil.which("useradd") is not None
    name = f"rg{secrets.token_hex(4)}" if own else getpass.getuser()
    try:
        key = keygen(folder / "key")
        if own:
            subprocess.run(["useradd", "--create-home", "-d", str(home), "-s", "/bin/sh", name], check=True)
            subprocess.run(["usermod", "-p", "*", name], check=True)  # a locked account is refused
        home.mkdir(exist_ok=True)
        ssh = home / ".ssh"
        ssh.mkdir(mode=0o700)
        (ssh / "authorized_keys").write_text((folder / "key.pub").read_text())
        if own:
            for path in (ssh, ssh / "authorized_keys"):
                shutil.chown(path, name, name)
        login = Login(name, home, folder, key, own)
        yield login
        if own:
            kill_all(login.uid)
    finally:
        if own:
            subprocess.run(["userdel", "-f", name], check=False, capture_output=True)
            subprocess.run(["groupdel", name], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


class SSHServer:
    """One sshd.

    Attributes:
        port: on 127.0.0.1.
        known_hosts: file with its key.
    """

    def __init__(self, login: Login, *options: str, keys: list[str] | None = None) -> None:
        self.login = login
        self.folder = Path(tempfile.mkdtemp(prefix="sshd-", dir=login.folder))
        self.folder.chmod(0o711)
        keygen(self.folder / "host_key")
        self.port = free_port()
        public = " ".join((self.folder / "host_key.pub").read_text().split()[:2])
        self.known_hosts = self.folder / "known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}\n")
        authorized = keys or [str(login.home / ".ssh" / "authorized_keys")]
        lines = [
            *options,  # the first value of an option counts
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder / 'host_key'}",
            f"AuthorizedKeysFile {' '.join(authorized)}",
            f"PidFile {self.folder / 'pid'}",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",
            "MaxStartups 100",
            "Subsystem sftp internal-sftp",
            *([] if login.own else [f"SetEnv HOME={login.home}"]),
        ]
        (self.folder / "config").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SSHServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Listen."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            argv = [SSHD, "-D", "-e", "-f", str(self.folder / "config")]
            self._process = subprocess.Popen(argv, stderr=log, stdin=subprocess.DEVNULL)
        until(self._answers, f"sshd on {self.port}: {self.log()}")

    def log(self) -> str:
        """What it says."""
        return (self.folder / "log").read_text()

    def connections(self) -> list[psutil.Process]:
        """The processes that serve connections; not what runs over them."""
        assert self._process is not None
        found: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "".join(child.cmdline()[:1]).startswith("sshd"):
                        found.append(child)
        return found

    def logins(self) -> int:
        """Connections that are open, with their login done."""
        titles: list[str] = []
        for process in self.connections():
            with contextlib.suppress(psutil.NoSuchProcess):
                titles.append(" ".join(process.cmdline()).strip())
        # `sshd: NAME [priv]` is the other half of each, `sshd: NAME@internal-sftp` its file session
        return len([title for title in titles if re.match(f"sshd[^:]*: {self.login.name}(@notty)?$", title)])

    def cut(self) -> int:
        """Kill all connections, not the server nor what was started over them. Returns how many processes."""
        found = self.connections()
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        until(lambda: not any(_lives(process) for process in found), "the cut")
        return len(found)

    def freeze(self) -> None:
        """Stop the processes of all connections: they stay open, and nobody answers."""
        for process in self.connections():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def stop(self) -> None:
        """End the server and its connections."""
        if self._process is None:
            return
        connections = self.connections()
        self._process.kill()
        self._process.wait()
        self._process = None
        for process in connections:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def image(self, **options: object) -> SSHImage:
        """An image for this host."""
        wanted: dict[str, object] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": self.login.name,
            "key": str(self.login.key),
            "known_hosts": str(self.known_hosts),
        }
        return SSHImage(**{**wanted, **options})  # type: ignore[arg-type]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                return client.recv(4) == b"SSH-"
        except OSError:
            return False
