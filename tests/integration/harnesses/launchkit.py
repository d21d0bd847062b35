"""A machine of the local backend to launch harnesses on, without a gateway: what starts and ends them is tested."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from regrow_machine_manager.backend import Data
from regrow_machine_manager.backends.local import LocalBackend
from regrow_machine_manager.commands import Commands
from regrow_protocol.agents import Launch
from regrow_protocol.machines import Exec, ExecDone

AGENT = f"a_{os.getpid()}"
"""Of this worker: what carries the mark of an agent is ended wherever it is on this computer."""


@dataclass
class Ground:
    """A machine to launch on.

    Attributes:
        work: its workdir.
    """

    backend: LocalBackend
    commands: Commands
    data: Data

    @property
    def work(self) -> Path:
        return Path(self.backend.workdir(self.data))

    async def place(self, launch: Launch) -> None:
        """Write the launch's files."""
        for file in launch.files:
            await self.backend.write(self.data, f"{self.work}/{file.path}", file.data, mode=file.mode)

    def run(self, launch: Launch, id_: str = "p.1.1", **env: str) -> asyncio.Task[ExecDone]:
        """Run the launch's command."""
        exec_ = Exec(launch.command, env={**launch.env, **env})
        return asyncio.ensure_future(self.commands.run(self.data["machine"], self.data, id_, exec_))

    async def launch(self, launch: Launch, id_: str = "p.1.1", **env: str) -> asyncio.Task[ExecDone]:
        """As its owner does: the files, then the command."""
        await self.place(launch)
        return self.run(launch, id_, **env)

    async def kill(self, id_: str = "p.1.1") -> None:
        """Kill the launch command, as its owner does."""
        await self.commands.kill(self.data, id_)

    def processes(self) -> list[psutil.Process]:
        """All that runs on the machine for agents, with what dropped its variables: that works in the workdir."""
        return [each for each in psutil.process_iter() if _living(each) and self._agents(each)]

    def _agents(self, process: psutil.Process) -> bool:
        environ = _environ(process)
        if environ.get("REGROW_MACHINE_HOME") == self.data["home"]:
            return "REGROW_AGENT_ID" in environ
        exiting = not _command(process)  # it has no memory any more, but a folder yet
        return not environ and not exiting and _folder(process) == str(self.work)

    async def gone(self) -> None:
        """Wait until nothing runs any more: what was killed may need a moment to go."""
        deadline = time.monotonic() + 40
        while left := self.processes():
            assert time.monotonic() < deadline, [_command(each) for each in left]
            await asyncio.sleep(0.02)

    def named(self, pattern: str) -> list[int]:
        """Those of its processes in whose command line the regular expression is found."""
        return [each.pid for each in self.processes() if re.search(pattern, _command(each))]

    def signal(self, pids: list[int], number: int = signal.SIGKILL) -> None:
        """Send a signal to processes that must be there; to all at once, as far as they can tell."""
        assert pids
        for sent in (signal.SIGSTOP, number, signal.SIGCONT):
            for pid in pids:
                with suppress(ProcessLookupError):  # it went with the one before it
                    os.kill(pid, sent)


def _living(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _environ(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def _folder(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except psutil.Error:
        return ""


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
