"""Unique names of processes: `name.<app>.<name>` in `regrow_processes` holds the pid of the one that has it.

Claimed when a process is seen to run, given back when it is seen to end. The events of two processes may be handled at
once and by two supervisors; what keeps the names right is the order of steps: the record is written before the name,
and who has claimed a name looks at the record once more.
"""

from __future__ import annotations

from regrow_protocol.bus import Bucket
from regrow_protocol.errors import RegrowError, WrongRevision
from regrow_protocol.messages import ProcessRecord
from regrow_protocol.subjects import token

from .records import RUNNING, read_record


class Taken(RegrowError):
    """Another running process has the name."""

    code = "name-taken"


class Names:
    """Names in the bucket `kv`."""

    def __init__(self, kv: Bucket) -> None:
        self._kv = kv

    async def settle(self, record: ProcessRecord) -> None:
        """Give the process of `record`, which is written, its name if it runs; take it away if it has ended.

        Raises `Taken`.
        """
        key = f"name.{token(record.app)}.{token(record.name)}"
        if record.status == RUNNING:
            await self._claim(key, record)
            if not await self._runs(record.pid):  # it ended meanwhile, and who wrote that may have looked before us
                await self._release(key, record.pid)
        else:
            await self._release(key, record.pid)

    async def _claim(self, key: str, record: ProcessRecord) -> None:
        pid = record.pid
        while True:
            try:
                await self._kv.create(key, pid.encode())
            except WrongRevision:
                found = await self._kv.get(key)
            else:
                return
            if found is None:
                continue  # given back this moment
            holder, revision = found[0].decode(), found[1]
            if holder == pid:
                return
            if await self._runs(holder):
                raise Taken(f"{record.name} is the name of {holder}, which runs") from None
            try:
                await self._kv.update(key, pid.encode(), revision)
            except WrongRevision:
                continue
            return

    async def _release(self, key: str, pid: str) -> None:
        found = await self._kv.get(key)
        if found is None or found[0] != pid.encode():
            return
        try:
            await self._kv.delete(key, found[1])
        except WrongRevision:
            return  # it has another holder by now

    async def _runs(self, pid: str) -> bool:
        found = await self._kv.get(pid)
        record = None if found is None else read_record(found[0])
        return record is not None and record.status == RUNNING
