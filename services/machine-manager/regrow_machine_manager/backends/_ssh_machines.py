"""What machines have in common that are reached over SSH: programs, files, users.

A machine's `data` has `folder` (the manager's, on the machine), `workdir`, `real` (the workdir without links), `login`
and `uid` (who is logged in), `env` and `machine` (its id). Where its server is, the backend says.

Users: `agent` is who logs in. `root`, or another name, is by `sudo -n`, which must be allowed without a password; a
login of root's becomes others by `su`. Every program has `REGROW_MACHINE=<id>` in its environment.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeVar

from ..backend import Backend, Completed, Data, MachineFailed, MachineLost, Node
from ..paths import OutsideRoot
from . import _ssh_files as files
from . import _ssh_scripts as scripts
from ._ssh_address import Address, checked_user
from ._ssh_link import MAX_COMMAND, Credentials, check_asyncssh
from ._ssh_links import Links

if TYPE_CHECKING:
    from asyncssh import SFTPClient

I = TypeVar("I")  # noqa: E741 - an image class


class SSHMachines(Backend[I]):
    """The part of a backend that speaks SSH.

    Args:
        node: where it runs.
        credentials: how to log in at an address.
    """

    at_once: ClassVar[int] = 24  # fewer than all sessions of a host, which its machines share

    def __init__(self, node: Node, credentials: Credentials) -> None:
        super().__init__(node)
        self.links = Links(credentials)
        self._may_become: set[tuple[Address, str]] = set()

    @abstractmethod
    def address(self, data: Data) -> Address:
        """Where a machine's server is."""

    async def open(self) -> None:
        await asyncio.to_thread(check_asyncssh)

    async def close(self) -> None:
        await self.links.close()

    # Programs ---------------------------------------------------------------------------------------------------------

    async def exec(self, data: Data, argv: list[str], *, user: str = "agent", stdin: bytes = b"") -> Completed:
        other = self.other(data, user)
        program = argv
        if other:
            program = [*await self.becoming(data, other), "env", f"REGROW_MACHINE={data['machine']}", *argv]
        arguments = [data["folder"], data["workdir"], data["machine"], "1" if other else ""]
        command = scripts.sh(scripts.RUN, *arguments, *program)
        if "\0" in command or len(command.encode()) > MAX_COMMAND:
            hint = f"at most {MAX_COMMAND} bytes, none of them NUL; what is larger goes by stdin"
            raise MachineFailed(f"The program {argv[0]!r} has arguments that cannot be sent", hint=hint)
        done = await self.links.run(self.address(data), command, stdin)
        if done.exit_code == scripts.GONE and done.stderr == f"regrow: no machine {data['folder']}\n".encode():
            raise self._gone(data)
        return done

    def other(self, data: Data, user: str) -> str:
        """The name of the user, when it is another than who logs in; else nothing."""
        return "" if user in ("agent", data["login"]) or (user == "root" and data["uid"] == 0) else checked_user(user)

    async def becoming(self, data: Data, user: str) -> tuple[str, ...]:
        """The program that runs others as this user.

        Raises:
            MachineFailed: the login may not.
        """
        if data["uid"] == 0:
            return ("su", "-s", "/bin/sh", user, "-c", 'exec "$0" "$@"', "--")
        address = self.address(data)
        program = ("sudo", "-n", "-u", user, "--")
        if (address, user) not in self._may_become:
            done = await self.links.run(address, " ".join((*program, "true")))
            if done.exit_code:
                said = done.stderr.decode(errors="replace").strip()[:200]
                hint = f"a sudoers rule on the host: {data['login']} ALL=({user}) NOPASSWD: ALL"
                raise MachineFailed(f"{address} may not run programs as {user}: {said}", hint=hint)
            self._may_become.add((address, user))
        return program

    async def script(self, address: Address, script: str, *arguments: str, before: tuple[str, ...] = ()) -> bytes:
        """What a script of ours prints.

        Raises:
            MachineFailed: it failed, with what it said.
        """
        done = await self.links.run(address, scripts.sh(script, *arguments, before=before))
        if done.exit_code:
            said = done.stderr.decode(errors="replace").strip()[:500]
            raise MachineFailed(
                f"{address}: {said or f'exit code {done.exit_code}'}", hint="see the host's disk and rights"
            )
        return done.stdout

    # Files ------------------------------------------------------------------------------------------------------------

    async def write(
        self, data: Data, path: str, content: bytes, *, mode: int | None = None, user: str = "agent"
    ) -> None:
        root = self._real_root(data, path)
        if self.other(data, user):
            octal = "" if mode is None else f"{mode:o}"
            argv = ["sh", "-c", scripts.WRITE, "regrow", path, root, octal]
            self._told(await self.exec(data, argv, user=user, stdin=content), path, root)
            return

        async def use(sftp: SFTPClient) -> None:
            await files.write(sftp, path, content, mode, root, alive=self.state(data))

        try:
            await self.links.files(self.address(data), use)
        except files.Gone as error:
            raise self._gone(data) from error

    async def read(
        self, data: Data, path: str, *, user: str = "agent", offset: int = 0, limit: int | None = None
    ) -> bytes:
        root = self._real_root(data, path)
        if self.other(data, user):
            argv = ["sh", "-c", scripts.READ, "regrow", path, root, str(offset), "" if limit is None else str(limit)]
            return self._told(await self.exec(data, argv, user=user), path, root)

        async def use(sftp: SFTPClient) -> bytes:
            return await files.read(sftp, path, offset, limit, root, alive=self.state(data))

        try:
            return await self.links.files(self.address(data), use)
        except files.Gone as error:
            raise self._gone(data) from error

    # Where things are -------------------------------------------------------------------------------------------------

    def workdir(self, data: Data) -> str:
        return data["workdir"]

    def state(self, data: Data) -> str:
        return f"{data['folder']}/state"

    async def attach(self, data: Data) -> bool:
        try:
            return (await self.exec(data, ["true"])).exit_code == 0
        except MachineLost:
            return False

    def _real_root(self, data: Data, path: str) -> str:
        """The real path of the root that a path is under: the workdir's, or of the manager's own folder."""
        state = self.state(data)
        return state if path.startswith(state + "/") else data["real"]

    def _gone(self, data: Data) -> MachineLost:
        return MachineLost(
            f"Machine {data['machine']} is gone from {self.address(data)}", hint="its folder was removed"
        )

    def _told(self, done: Completed, path: str, root: str) -> bytes:
        """The output of `WRITE` or `READ`, or its error as `Backend` has it."""
        errors: dict[int, Exception] = {
            scripts.NOT_FOUND: FileNotFoundError(path),
            scripts.IS_DIRECTORY: IsADirectoryError(path),
            scripts.DENIED: PermissionError(path),
            scripts.NO_FILE: PermissionError(f"{path} is no ordinary file"),
            scripts.OUTSIDE: OutsideRoot(f"{path!r} leads outside of the machine's folder {root}"),
        }
        if done.exit_code:
            said = done.stderr.decode(errors="replace").strip()[:200]
            raise errors.get(done.exit_code) or MachineFailed(f"{path}: {said}", hint="see the host's disk and rights")
        return done.stdout
