"""`make demo`: a survey of real code, whose host is killed midway; another one finishes it.

    [REGROW_MODEL=MODEL [REGROW_HARNESS=pi]] python examples/demo.py [FOLDER]

It starts a NATS server and a supervisor of its own in a temporary folder, and a host for `survey.py`. When half of the
packages are surveyed it kills the host with SIGKILL and starts another. What was recovered, lost or recorded twice is
read from the streams afterwards; the table is compared with one computed without Regrow. The exit code is 0 only if
something was recovered, nothing is missing and nothing is there twice.

With `REGROW_MODEL` agents do the survey (`agent_survey.py`); `scripted` is a model that needs no key and no network.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import agent_survey
import demo_agents
import survey
from demo_log import Verdict, judge, read_log
from regrow import ProcessType
from regrow.client import Client, RemoteProcess
from regrow.errors import RegrowError
from regrow.launcher import HostProcess
from regrow_cli.stack import ensure_stack, stop_stack
from regrow_protocol import streams
from regrow_protocol.bus import Bus

APP = "demo"
WORKERS, AGENTS = 16, 4
TIME_LIMIT, MODEL_TIME_LIMIT = 120.0, 900.0


@dataclass(frozen=True)
class Show:
    """What is shown.

    Attributes:
        root: the process that is started, of a program of the same name.
        limit: seconds until it must have ended.
    """

    folder: str
    root: ProcessType[..., Any]
    arguments: tuple[Any, ...]
    limit: float = TIME_LIMIT


@contextmanager
def chosen(folder: str) -> Iterator[Show]:
    """The survey by plain workers, or by agents where a model is named."""
    model = os.environ.get("REGROW_MODEL", "")
    if not model:
        yield Show(folder, survey.survey, (folder, WORKERS))
        return
    with demo_agents.choice(model, os.environ.get("REGROW_HARNESS") or "pi") as choice:
        limit = TIME_LIMIT if model == demo_agents.SCRIPTED else MODEL_TIME_LIMIT
        yield Show(folder, agent_survey.agent_survey, (folder, choice, AGENTS), limit)


class Screen:
    """Progress: one line that is rewritten on a terminal, a line for every tenth otherwise."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._live = sys.stdout.isatty()
        self._open = False
        self._tenth = -1

    def say(self, text: str) -> None:
        """A line of its own, with the seconds since the beginning."""
        if self._open:
            print()
            self._open = False
        print(f"{time.monotonic() - self._began:6.2f} s  {text}", flush=True)

    def progress(self, packages: int, of: int, files: int) -> None:
        """How far the survey is."""
        share = packages / max(of, 1)
        if self._live:
            bar = "█" * int(share * 30)
            print(f"\r          {bar:░<30} {packages}/{of} packages, {files} files", end="", flush=True)
            self._open = True
        elif int(share * 10) > self._tenth:
            self._tenth = int(share * 10)
            self.say(f"{packages}/{of} packages, {files} files")


@asynccontextmanager
async def stack(screen: Screen) -> AsyncGenerator[str]:
    """A NATS server and the services in a folder of their own; gives the server's URL."""
    folder = Path(tempfile.mkdtemp(prefix="regrow-demo-"))
    try:
        info = await asyncio.to_thread(ensure_stack, folder)
        screen.say(f"NATS server and supervisor are running (data in {folder})")
        yield info.url
    finally:
        await asyncio.to_thread(stop_stack, folder)
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def host(
    show: Show, url: str, bus: Bus, screen: Screen, name: str
) -> AsyncGenerator[tuple[HostProcess, asyncio.Event]]:
    """A host for the survey, and what is set when it has died."""
    dead = asyncio.Event()
    program = str(Path(__file__).with_name(f"{show.root.name}.py"))
    started = HostProcess(program, url, app=APP, bus=bus, restart=False, on_death=lambda _code: dead.set())
    ready = await started.start()
    screen.say(f"{name} is running (pid {ready.os_pid}, {ready.host})")
    try:
        yield started, dead
    except BaseException:
        started.kill()  # nobody waits for its work any more
        raise
    finally:
        await started.stop()


class Progress:
    """What the events of the root say, shown as they come; `half` is set when half of the packages are surveyed."""

    def __init__(self, screen: Screen) -> None:
        self.half = asyncio.Event()
        self.files = self.packages = self.of = 0
        self.watch = demo_agents.Watch(screen.say)
        self._screen = screen

    @asynccontextmanager
    async def following(self, root: RemoteProcess) -> AsyncGenerator[asyncio.Task[None]]:
        """Follow the root in a task of its own, which ends with the root."""
        task = asyncio.create_task(self._follow(root))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self, root: RemoteProcess) -> None:
        async for event in root.events():
            if event.type == "packages":
                self.of = event.data["count"]
            elif event.type == "done" and event.source is not None:
                self.packages += 1
                self.files += event.data["files"]
                self._screen.progress(self.packages, self.of, self.files)
                if self.packages * 2 >= self.of:
                    self.half.set()
            elif event.type == "agent_started":
                self.watch.names[event.data["id"]] = event.data["name"]
                self._screen.say(f"the agent {event.data['name']} has come")
            elif event.type == "finding":
                self._screen.say(event.data)


async def run(show: Show, screen: Screen) -> tuple[list[survey.PackageReport], Verdict]:
    """The survey with its accident: its result, and what the log says of it."""
    async with stack(screen) as url, await Bus.connect(url, name="regrow-demo") as bus:
        client = Client(bus)
        try:
            result, killed_at = await surveyed(show, client, url, screen)
            verdict = judge(await read_log(bus, APP), killed_at)
        finally:
            await demo_agents.end_machines(client, APP)
            await client.close()
    return result, verdict


async def surveyed(
    show: Show, client: Client, url: str, screen: Screen
) -> tuple[list[survey.PackageReport], tuple[int, int]]:
    """The result of the survey, and where the log stood when its host had been killed."""
    bus, progress = client.bus, Progress(screen)
    async with host(show, url, bus, screen, "host 1") as (first, dead):
        root = await start(client, first, show)
        screen.say(f"the survey of {show.folder or 'the standard library'} has begun ({root.pid})")
        async with progress.following(root) as following, progress.watch.following(bus, root):
            await first_of(progress.half, following)
            if not progress.half.is_set():
                await root.result()  # it has failed, or there was nothing to survey
            first.kill()
            await dead.wait()
            killed_at = await last_sequences(bus)
            screen.say(f"host 1 was killed with SIGKILL after {progress.packages} of {progress.of} packages")
            async with host(show, url, bus, screen, "host 2"):
                result = await root.result()
                await following
    screen.say(f"the survey has ended: {progress.packages} packages, {progress.files} files")
    return result, killed_at


async def first_of(event: asyncio.Event, following: asyncio.Task[None]) -> None:
    """Wait for `event`, or until there is nothing to follow any more."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait([waiting, following], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if following.done():
        following.result()


async def start(client: Client, on: HostProcess, show: Show) -> RemoteProcess:
    """Start the root."""
    assert on.ready is not None
    signature = show.root.signature
    arguments = signature.encode(show.arguments, {})
    return await client.start(APP, on.ready.build, show.root.name, arguments, result_type=signature.result)


async def last_sequences(bus: Bus) -> tuple[int, int]:
    """The last input and the last event, when all that a dead host had sent is stored."""
    last = (-1, -1)
    while True:
        found = await bus.last_seq(streams.inbox_stream(APP)), await bus.last_seq(streams.EVENTS)
        if found == last:
            return found
        last = found
        await asyncio.sleep(0.1)


def without_regrow(folder: str) -> list[survey.PackageReport]:
    """The same survey in this process, one package after the other."""
    packages = survey.find_packages(folder)
    return survey.ranked([survey.measure(each.name, each.path, survey.list_files(each.path)) for each in packages])


def problems(reports: list[survey.PackageReport], expected: list[survey.PackageReport], verdict: Verdict) -> list[str]:
    """What is wrong with a run; nothing, if all is well."""
    found = [f"lost: {what}" for what in verdict.lost] + [f"recorded twice: {what}" for what in verdict.twice]
    if verdict.recovered == 0:
        found.append("nothing was recovered: the survey was over before its host was killed")
    if reports != expected:
        names = {report.name for report in reports}
        missing = [report.name for report in expected if report.name not in names]
        differing = [report.name for report in reports if report not in expected]
        found.append(f"the table differs from one made without Regrow: missing {missing}, different {differing}")
    return found


async def within(limit: float, show: Show, screen: Screen) -> tuple[list[survey.PackageReport], Verdict]:
    """`run` with a limit. Raises TimeoutError."""
    try:
        async with asyncio.timeout(limit):
            return await run(show, screen)
    except TimeoutError:
        raise TimeoutError(f"the survey has not ended within {limit:g} s") from None


def main() -> int:
    """Run the demo; the exit code."""
    logging.basicConfig(level=logging.ERROR)  # that a host died is no news here
    folder = str(Path(sys.argv[1]).resolve()) if len(sys.argv) > 1 else ""
    screen = Screen()
    try:
        survey.find_packages(folder)  # a wrong folder shall fail before anything is started
        with chosen(folder) as show:
            reports, verdict = asyncio.run(within(show.limit, show, screen))
        wrong = problems(reports, without_regrow(folder), verdict)
    except (OSError, RegrowError, TimeoutError) as error:
        print(f"error: {error or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\n{survey.table(reports, top=15)}\n")
    print(f"the log was silent for {verdict.silence:.1f} s after the kill")
    print(f"processes: {verdict.processes}, steps run: {verdict.steps}, results recorded: {verdict.results}")
    if verdict.calls:
        print(f"agents: {verdict.agents}, tool calls: {verdict.calls}, answers: {verdict.answers}")
    for problem in wrong:
        print(problem)
    print(f"recovered: {verdict.recovered} processes, lost: {len(verdict.lost)}, recorded twice: {len(verdict.twice)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
