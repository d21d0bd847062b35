"""Machines that are folders of the manager's node, whose commands run as ordinary processes: no isolation.

A machine `m` has `machines/m` in the backend's folder with its record (`machine.json`), the manager's own files
(`state`) and, unless its image names a folder that is kept, the folder that it works in (`work`). Every process of it
carries `REGROW_MACHINE=m` and that folder (`REGROW_MACHINE_HOME`) among its variables, by which `stop` finds those that
left their command's group; those that dropped their variables too are found while they work in that folder. What is
made is made aside, in `.making.…`, and renamed when it is whole: of two that make the same one the first wins.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import pwd
import re
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from regrow_protocol.images import Limits, LocalImage, size
from regrow_protocol.machines import Port

from .. import wrapper
from ..backend import Backend, Completed, Data, MachineFailed, MachineLost, Spawned
from . import _files, _holding, _processes

_GRACE = 5.0
_NAME = "REGROW_MACHINE"
_MARK = "REGROW_MACHINE_HOME"
_INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|TERM|LD_LIBRARY_PATH"
    r"|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY"
    r"|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NODE_EXTRA_CA_CERTS|(PIP|UV|NPM_CONFIG|npm_config)_\w+"
)
"""Variables of the manager that commands get: where things are. Its settings, keys and passwords are not among them."""

_PRLIMIT = ("/usr/bin/prlimit", "/bin/prlimit")


class LocalBackend(Backend[LocalImage]):
    """Folders and processes of this node."""

    name: ClassVar[str] = "local"
    image: ClassVar[type[Any]] = LocalImage
    holds: ClassVar[bool] = True

    # Making -----------------------------------------------------------------------------------------------------------

    async def spawn(self, machine: str, image: LocalImage, *, load: Mapping[str, int]) -> Spawned:
        del load
        return await asyncio.to_thread(self._make, machine, image, None)

    async def restore(self, machine: str, image: LocalImage, kept: Data, *, load: Mapping[str, int]) -> Spawned:
        del load
        return await asyncio.to_thread(self._make, machine, image, Path(kept["folder"]))

    async def fork(self, data: Data, machines: list[str], image: LocalImage) -> list[Spawned]:
        self._there(data)
        source = Path(self.workdir(data))
        return [await asyncio.to_thread(self._make, machine, image, source) for machine in machines]

    def _make(self, machine: str, image: LocalImage, source: Path | None) -> Spawned:
        """Make the machine's folder, filled with what is in `source`; one that is there already is taken."""
        home = self._home(machine)
        if not (home / "machine.json").is_file():
            data = self._data(machine, image, copied=source is not None)
            account = _account(image.user)
            making = self._aside(machine)
            try:
                self._reachable(data)
                (making / "state").mkdir(mode=0o711)
                (making / "state" / "commands").mkdir()
                (making / "state" / "commands").chmod(0o1777)
                work = making / "work"
                if source is not None:
                    _files.copy(source, work)
                elif image.workdir is None:
                    work.mkdir(mode=0o755)
                if account is not None:
                    _files.give(making / "state", account)
                    if source is None and work.exists():
                        _files.give(work, account)
                (making / "machine.json").write_text(json.dumps(data))
                making.chmod(0o711)
                _settle(making, home)
            except BaseException:
                shutil.rmtree(making, ignore_errors=True)
                raise
        return Spawned(json.loads((home / "machine.json").read_text()))

    def _data(self, machine: str, image: LocalImage, *, copied: bool) -> Data:
        """What is needed to reach the machine."""
        home = self._home(machine)
        if image.workdir is None or copied:
            work = home / "work"
        else:
            work = Path(image.workdir).expanduser()
            if not work.is_absolute() or not work.is_dir():
                raise MachineFailed(f"{image.workdir!r} is no folder on node {self.node.name}", hint="an absolute path")
            work = work.resolve()
        return {
            "machine": machine,
            "home": str(home),
            "work": str(work),
            "env": image.env,
            "user": image.user,
            "prefix": _limiting(image.limits),
        }

    def _reachable(self, data: Data) -> None:
        """Raise when the image's user cannot get to the machine's folder: one above it is closed."""
        account = _account(data["user"])
        if account is None:
            return
        for folder in (data["home"], data["work"]):
            for above in reversed(Path(folder).parents):
                if str(above) == data["home"]:
                    break  # not there yet, and open
                found = above.stat()
                bit = 0o100 if found.st_uid == account[0] else 0o010 if found.st_gid in account[2] else 0o001
                if not found.st_mode & bit:
                    raise MachineFailed(f"{data['user']} cannot enter {above}", hint=f"chmod o+x {above}")

    def _aside(self, name: str) -> Path:
        """A new folder that nothing looks at, to make something in."""
        folder = self.node.folder / "machines"
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        for level in (folder, self.node.folder):
            level.chmod(0o711 | level.stat().st_mode)
        making = folder / f".making.{name}.{os.getpid()}.{time.monotonic_ns()}"
        making.mkdir(mode=0o700)
        return making

    def _home(self, machine: str) -> Path:
        if not machine or machine.startswith(".") or "/" in machine or "\0" in machine:
            raise MachineFailed(f"{machine[:80]!r} is no id of a machine")
        return self.node.folder / "machines" / machine

    # Using ------------------------------------------------------------------------------------------------------------

    def _there(self, data: Data) -> None:
        """Raises `MachineLost` when it is not."""
        if not Path(data["home"], "machine.json").is_file():
            raise MachineLost(f"The machine {data['machine']} is gone from node {self.node.name}")
        if not Path(data["work"]).is_dir():
            raise MachineLost(f"The folder {data['work']} of the machine {data['machine']} is gone")

    async def exec(self, data: Data, argv: list[str], *, user: str = "agent", stdin: bytes = b"") -> Completed:
        return await self._exec(data, argv, user, stdin)

    async def hold(self, data: Data, id: str, arguments: list[str], *, user: str, stdin: bytes) -> Completed:  # noqa: A002
        if stdin:
            return await super().hold(data, id, arguments, user=user, stdin=stdin)
        self._there(data)

        async def run(files: tuple[int, int, int]) -> Completed:
            return await self._exec(data, ["sh", "-c", wrapper.HOLD, "sh", *arguments], user, *files)

        account = self._owner(data, user)
        files = Path(self.state(data), "commands")
        return await _holding.hold(run, files, id, int(arguments[2]), account and account[:2])

    async def _exec(
        self,
        data: Data,
        argv: list[str],
        user: str,
        stdin: bytes | int,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> Completed:
        self._there(data)
        name = data["user"] if user == "agent" else user
        account = _account(name)
        env = {**_inherited(), _NAME: data["machine"], _MARK: data["home"], "PWD": data["work"]}
        if account is not None:
            env |= {"HOME": pwd.getpwuid(account[0]).pw_dir, "USER": name, "LOGNAME": name}
        try:
            return await _processes.run(
                argv, cwd=data["work"], env=env, stdin=stdin, stdout=stdout, stderr=stderr, account=account
            )
        except OSError as error:
            raise MachineFailed(f"{argv[0]!r} cannot be run on {data['machine']}: {error}") from error

    async def write(
        self, data: Data, path: str, content: bytes, *, mode: int | None = None, user: str = "agent"
    ) -> None:
        self._there(data)
        account = self._owner(data, user)
        await asyncio.to_thread(_files.write, Path(data["work"]), path, content, mode, account)

    async def read(
        self, data: Data, path: str, *, user: str = "agent", offset: int = 0, limit: int | None = None
    ) -> bytes:
        self._there(data)
        self._owner(data, user)
        root = Path(self.state(data)) if path.startswith(self.state(data) + "/") else Path(data["work"])
        return await asyncio.to_thread(_files.read, root, path, offset, limit)

    def _owner(self, data: Data, user: str) -> tuple[int, int, list[int]] | None:
        return _account(data["user"] if user == "agent" else user)

    def workdir(self, data: Data) -> str:
        return data["work"]

    def state(self, data: Data) -> str:
        return f"{data['home']}/state"

    def prefix(self, data: Data) -> list[str]:
        return list(data["prefix"])

    async def attach(self, data: Data) -> bool:
        try:
            self._there(data)
        except MachineLost:
            return False
        return True

    async def expose(self, data: Data, port: int) -> Port:
        self._there(data)
        return Port("127.0.0.1", port)

    def shell(self, data: Data, line: str = "") -> list[str]:
        account = _account(data["user"])
        variables = [f"{key}={value}" for key, value in data["env"].items()]
        marks = [f"{_NAME}={data['machine']}", f"{_MARK}={data['home']}"]
        what = 'exec sh -c "$2"' if line else 'exec "${SHELL:-/bin/sh}"'
        inner = ["env", *variables, *marks, "sh", "-c", f'cd "$1" && {what}']
        switch = ["setpriv", f"--reuid={account[0]}", f"--regid={account[1]}", "--init-groups"] if account else []
        return [*switch, *inner, "sh", data["work"], *([line] if line else [])]

    # Keeping ----------------------------------------------------------------------------------------------------------

    async def snapshot(self, data: Data, snapshot: str) -> Data:
        self._there(data)
        if not snapshot or snapshot.startswith(".") or "/" in snapshot:
            raise MachineFailed(f"{snapshot[:80]!r} is no id of a snapshot")
        folder = self.node.folder / "snapshots" / snapshot
        await asyncio.to_thread(self._copy_aside, Path(data["work"]), folder)
        return {"folder": str(folder)}

    def _copy_aside(self, source: Path, folder: Path) -> None:
        if folder.is_dir():
            return
        making = self._aside(folder.name)
        try:
            _files.copy(source, making / "work")
            folder.parent.mkdir(exist_ok=True, mode=0o700)
            _settle(making / "work", folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)

    async def drop(self, kept: Data) -> None:
        await asyncio.to_thread(_files.remove, Path(kept["folder"]))

    # Ending -----------------------------------------------------------------------------------------------------------

    async def stop(self, data: Data) -> None:
        home = Path(data["home"])
        began = time.monotonic()
        sent = signal.SIGTERM
        told = set[int]()
        while found := await asyncio.to_thread(_processes_of, data["home"]):
            if time.monotonic() - began >= _GRACE:
                sent = signal.SIGKILL
            if time.monotonic() - began >= 2 * _GRACE:
                raise MachineFailed(f"Processes of {data['machine']} do not end: {sorted(found)}")
            for pid in found:
                if sent == signal.SIGKILL or pid not in told:
                    told.add(pid)
                    _signal(pid, sent)
            await asyncio.sleep(0.01)
        await asyncio.to_thread(_files.remove, home)

    async def made(self) -> dict[str, Data]:
        def look() -> dict[str, Data]:
            folder = self.node.folder / "machines"
            if not folder.is_dir():
                return {}
            records = (entry / "machine.json" for entry in folder.iterdir() if not entry.name.startswith("."))
            return {r.parent.name: json.loads(r.read_text()) for r in records if r.is_file()}

        return await asyncio.to_thread(look)


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}


def _account(user: str | None) -> tuple[int, int, list[int]] | None:
    """User, group and groups to run as; None: this process's own.

    Raises:
        MachineFailed: there is no such user, or this process may not become it.
    """
    if user is None:
        return None
    try:
        found = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        raise MachineFailed(f"This node has no user {user!r}", hint="create it, or take another") from None
    if found.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise MachineFailed(
            f"Commands cannot run as {user!r}: the manager is not root",
            hint="run the manager as root or leave user out",
        )
    return found.pw_uid, found.pw_gid, os.getgrouplist(found.pw_name, found.pw_gid)


def _limiting(limits: Limits) -> list[str]:
    """The program that sets limits for another one; empty where there are none."""
    values = {
        "cpu": limits.cpu,
        "as": limits.memory and size(limits.memory),
        "fsize": limits.file and size(limits.file),
        "nofile": limits.files,
        "nproc": limits.processes,
    }
    options = [f"--{name}={value}" for name, value in values.items() if value is not None]
    if not options:
        return []
    program = next((path for path in _PRLIMIT if os.access(path, os.X_OK)), None)
    if program is None:
        raise MachineFailed("This node has no prlimit, which sets limits", hint="install util-linux")
    return [program, *options]


def _settle(made: Path, place: Path) -> None:
    """Move what is whole to its place; where another manager was quicker, its own stays and this one goes.

    Nothing but a whole one ever stands there: it comes, and goes, by renaming.
    """
    try:
        made.rename(place)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        _files.remove(made)


def _processes_of(home: str) -> set[int]:
    """Processes that carry the mark of the machine in this folder, or have their folder or root in it."""
    mark, real = f"{_MARK}={home}".encode(), os.path.realpath(home)
    found = set[int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0") or any(
                    f"{(entry / link).readlink()}/".startswith(f"{real}/") for link in ("cwd", "root")
                ):
                    found.add(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended, or it is another user's: none of ours
    return found


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
