"""What a container needs before its first start: to know its ordinary user, and folders that it owns."""

from __future__ import annotations

import asyncio
import io
import posixpath
import tarfile
from typing import Any

from . import _docker_users as users
from ._docker_engine import Engine
from ._docker_images import Found
from ._docker_options import STATE

_MANY = 1000


class Setup:
    """Setting up the containers of an engine; all of its calls may raise the engine's errors."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._users: dict[tuple[str, str | None], users.User] = {}

    async def user(self, container: str, wanted: str | None, image: Found) -> users.User:
        """The user of its ordinary commands; see `_docker_users.find`. Looked up once for an image.

        Raises:
            MachineFailed: there is no such user.
        """
        key = (image["Id"], wanted)
        if key not in self._users:
            passwd, group = await asyncio.gather(self._table(container, "passwd"), self._table(container, "group"))
            if len(self._users) >= _MANY:
                self._users.clear()
            self._users[key] = users.find(wanted, image["Config"].get("User") or "", passwd, group)
        return self._users[key]

    async def _table(self, container: str, name: str) -> str:
        """A file of /etc."""
        path = f"/etc/{name}"
        stat = await self._engine.stat(container, path)
        if stat is None:
            return ""
        path = stat["linkTarget"] or path

        def get(client: Any) -> bytes:
            pieces, _ = client.get_archive(container, path)
            with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
                member = archive.next()
                content = archive.extractfile(member) if member is not None and member.isfile() else None
                return content.read() if content is not None else b""

        return (await self._engine.call(get)).decode(errors="replace")

    async def folders(self, container: str, workdir: str, user: users.User) -> None:
        """Make the manager's folder for everybody, and the user's workdir unless there is one.

        By the archive of a container that does not run yet: its entries carry their owner, which even a root without
        the right to change owners can have.
        """
        missing: list[str] = []
        path = workdir
        while path != "/" and (await self._engine.stat(container, path)) is None:
            missing.append(path)
            path = posixpath.dirname(path)
        made = [(STATE, 0o1777, users.ROOT), *((path, 0o755, user) for path in reversed(missing))]
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, mode, owner in made:
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner.uid, owner.gid
                archive.addfile(entry)
        await self._engine.call(lambda c: c.put_archive(container, "/", packed.getvalue()))
