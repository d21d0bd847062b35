"""What the conformance suite of harnesses works with: an agent with a real owner, machine, gateway and harness.

The owner is a process that serves the agent's tools; the agent is enrolled and launched by commands in its name, step
by step, so that each can be disturbed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import Raw, Struct
from regrow_protocol import agents, messages, streams
from regrow_protocol.agents import Enrol, Enrolled, Entry, Launch, Send, Tool, Usage, agent_subject, enrol_subject
from regrow_protocol.errors import RegrowError
from regrow_protocol.images import AnyImage
from regrow_protocol.machines import MachineRef
from regrow_protocol.messages import Command, Ref

from .. import agent_process, expose, scope
from ..client import RemoteProcess
from ..errors import CallFailed, raised
from ..machines import ExecResult, Machine, machine
from ..outside import acting
from . import Runtime, runtime

PATIENCE = 100.0
"""Seconds that anything may take."""

MARK = b"REGROW_AGENT_MARK="

KILL = """
below() { for child in $(cat "/proc/$1/task/$1/children"); do echo "$child"; below "$child"; done; }
all=$(below "$(cat "$1")")
kill -KILL $all
echo $all
"""


@agent_process
async def owner() -> None:
    """Serves the tools of an agent; `hold` answers when `release` was called."""
    ended, released = asyncio.Event(), asyncio.Event()
    calls: list[str] = []

    @expose
    async def serve(agent: str) -> None:
        async def news(what: str, session: int, data: Any = None) -> None:
            calls.append(f"{what} {session}")

        async def add(a: int, b: int) -> int:
            calls.append("add")
            return a + b

        async def fault() -> None:
            calls.append("fault")
            raise ValueError("the well is dry")

        async def hold() -> str:
            calls.append("hold")
            await released.wait()
            return "it held"

        async def late() -> str:
            calls.append("late")
            return "better than never"

        scope.current().expose(news, agents.news_endpoint(agent))
        for tool in (add, fault, hold, late):
            scope.current().expose(tool, agents.tool_endpoint(agent, tool.__name__))

    @expose
    async def release() -> None:
        released.set()

    @expose
    async def called() -> list[str]:
        return calls

    @expose
    async def finish() -> None:
        ended.set()

    await ended.wait()


def tool(name: str, *numbers: str) -> Tool:
    """A tool of the owner with these parameters."""
    properties = {each: {"type": "integer"} for each in numbers}
    schema = {"type": "object", "properties": properties, "required": list(numbers), "additionalProperties": False}
    return Tool(name, f"Does {name}.", Raw(messages.encode(schema)), f"{len(name):016x}")


TOOLS = [tool("add", "a", "b"), tool("fault"), tool("hold")]


@dataclass(frozen=True)
class Start:
    """With what a harness is started in a test, beyond what it is always given.

    Attributes:
        model: that it names.
        options: the harness's.
        env: its variables.
    """

    model: str = ""
    options: dict[str, str] = field(default_factory=dict[str, str])
    env: dict[str, str] = field(default_factory=dict[str, str])


class Rig:
    """One agent.

    Attributes:
        enrolled: what its owner was told of it.
        launched: its present launch.
        running: the launch command that runs, or ran.
    """

    def __init__(self, rt: Runtime, process: RemoteProcess, box: Machine) -> None:
        self._rt = rt
        self.process = process
        self.box = box
        self.workdir = Path()
        self.enrolled: Enrolled
        self.launched: Launch
        self.running: asyncio.Task[ExecResult] | None = None

    # Commands ---------------------------------------------------------------------------------------------------------

    async def ask(self, name: str, args: Struct) -> Any:
        """A command of the owner to the gateway; its answer."""
        client, app = self._rt.client, self._rt.app
        n, reply = client.next_request()
        by = Ref(self.process.pid, 0, n)
        command = Command(
            id=f"{client.id}.{n}", app=app, name=name, args=Raw(messages.encode(args)), reply=reply, by=by
        )
        subject = enrol_subject(app) if name == "enrol" else agent_subject(app, self.enrolled.id)
        answer = await client.ask(streams.COMMANDS, subject, messages.encode(command), n)
        if answer.error is not None:
            raise raised(CallFailed, answer.error)
        type_ = agents.ANSWERS[name]
        return messages.decode(answer.value, type_) if type_ is not None and isinstance(answer.value, Raw) else None

    async def enrol(self, harness: str, start: Start) -> None:
        """Make the agent, and start its harness."""
        described = await self.box.describe()
        self.workdir = Path(described.workdir)
        ref = MachineRef(self.box.id, self.box.app, self.box.node, self.box.backend)
        self.enrolled = await self.ask(
            "enrol",
            Enrol(
                name="worker", harness=harness, machine=ref, workdir=described.workdir, tools=TOOLS, model=start.model,
                system_prompt="You are tested.", options=start.options, env=start.env,
            ),
        )  # fmt: skip
        await self.process.call("serve", agent=self.enrolled.id, wait=True)
        assert self.enrolled.launch is not None
        await self.launch(self.enrolled.launch)

    async def launch(self, launch: Launch) -> None:
        """Start the harness, and wait until it has come."""
        self.launched = launch
        for file in launch.files:
            await self.box.write_file(file.path, file.data, mode=file.mode)
        self.running = asyncio.ensure_future(self.box.exec(launch.command, env=launch.env))
        await self.until(lambda entries: any(e.type == "registered" and e.session == launch.session for e in entries))

    async def relaunch(self) -> None:
        """Start the harness again with its conversation."""
        await self.launch(await self.ask("relaunch", agents.Relaunch(self.launched.session, 137)))

    async def send(self, text: str, tools: int = 0) -> None:
        """Say something to the agent."""
        await self.ask("send", Send(text, tools))

    async def give(self, version: int, *tools: Tool) -> None:
        """Change its tools."""
        client, app = self._rt.client, self._rt.app
        n, _ = client.next_request()
        args = Raw(messages.encode(agents.Tools(version, list(tools))))
        command = Command(id=f"{client.id}.{n}", app=app, name="tools", args=args, by=Ref(self.process.pid, 0, n))
        await self._rt.bus.publish(
            streams.COMMANDS, agent_subject(app, self.enrolled.id), messages.encode(command), command.id
        )

    async def ended(self) -> ExecResult:
        """How the launch command ended."""
        assert self.running is not None
        return await self.running

    async def stop(self) -> None:
        """End it as its owner does: the launch command is killed."""
        if self.running is not None and not self.running.done():
            self.running.cancel()
            await asyncio.wait([self.running])

    # What can be seen -------------------------------------------------------------------------------------------------

    async def entries(self, *types: str) -> list[Entry]:
        """The conversation."""
        found = await self._rt.bus.history(streams.AGENTS, agents.conversation(self._rt.app, self.enrolled.id))
        read = [messages.decode(each.data, Entry) for each in found]
        return [each for each in read if not types or each.type in types]

    async def until(self, reached: Callable[[list[Entry]], bool]) -> list[Entry]:
        """Wait until the conversation is so. Raises RuntimeError when the harness ended instead."""
        while not reached(found := await self.entries()):
            if self.running is not None and self.running.done() and not reached(await self.entries()):
                told = "; ".join(f"{e.type} {bytes(e.data).decode()[:200]}" for e in found)
                raise RuntimeError(f"the harness has ended: {self.running.result()!r}; the conversation: {told}")
            await asyncio.sleep(0.02)
        return found

    async def says(self, text: str, times: int = 1) -> None:
        """Wait until the model has said something."""
        await self.until(lambda entries: sum(e.type == "text" and text in _said(e) for e in entries) >= times)

    async def calls(self, name: str, times: int = 1) -> None:
        """Wait until a tool has been called."""
        while (await self.called()).count(name) < times:  # noqa: ASYNC110 - only the owner knows
            await asyncio.sleep(0.02)

    async def called(self) -> list[str]:
        """The tools that the owner was called, in order, and the news that it heard."""
        return await self.process.call("called")

    async def usage(self) -> Usage:
        """The sum of what its turns took."""
        found = [messages.decode(e.data, Usage) for e in await self.entries("usage")]
        return Usage(input=sum(u.input for u in found), output=sum(u.output for u in found))

    async def told(self) -> str:
        """Its conversation and its terminal, for whoever looks for the reason of a failure."""
        try:
            entries = [f"{e.session} {e.type} {bytes(e.data).decode()[:300]}" for e in await self.entries()]
            socket = f"{self.launched.folder}/tmux.sock"
            screen = await self.box.exec(["tmux", "-S", socket, "capture-pane", "-p", "-t", "agent"], timeout=5)
        except (AttributeError, RegrowError) as error:
            return f"nothing is known: {error}"
        return "\n".join(["The conversation:", *entries, "The terminal:", screen.stdout.strip() or screen.stderr])

    # Its processes ----------------------------------------------------------------------------------------------------

    def processes(self) -> dict[int, str]:
        """What runs of this agent on this computer: all that carries its mark, or has its folder in its command."""
        mark, name = MARK + self.enrolled.id.encode(), self.enrolled.id
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(") ")[2][:1]
                if state != "Z" and (mark in (entry / "environ").read_bytes() or name in command):
                    found[int(entry.name)] = command
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found

    async def kill(self) -> None:
        """Kill the harness itself: all below the shell of its terminal's window, what is at its top first."""
        done = await self.box.exec(["sh", "-c", KILL, "sh", f"{self.launched.folder}/pid"])
        assert done.stdout.strip(), f"nothing to kill: {done.stderr}"

    async def gone(self) -> None:
        """Wait until nothing of it runs."""
        while self.processes():  # noqa: ASYNC110 - only the system knows
            await asyncio.sleep(0.02)


def _said(entry: Entry) -> str:
    return str(messages.decode(entry.data, dict).get("text", ""))


@asynccontextmanager
async def rig(url: str, image: AnyImage) -> AsyncGenerator[Rig]:
    """An owner and a machine for one agent; all is ended at the end.

    Args:
        url: of the NATS server that gateway and machine-manager use.
        image: of the machine.
    """
    async with (
        asyncio.timeout(PATIENCE),
        runtime(url=url, skip_time=False) as rt,
        acting(rt.client, rt.app),
        await machine(image) as box,
    ):
        made = Rig(rt, await rt.start(owner), box)
        try:
            yield made
        except BaseException as error:
            error.add_note(await asyncio.shield(made.told()))
            raise
        finally:
            await made.stop()
            await made.process.call("finish")
