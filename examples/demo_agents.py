"""The agents of `demo.py`: what they run, what keeps them from their work, and their end."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from agent_survey import TASK, Choice
from regrow.client import Client, RemoteProcess
from regrow.errors import ExecutionCancelled, RegrowError
from regrow.machines import Machine
from regrow.outside import acting
from regrow.testing.harness_programs import find_program, scripted
from regrow.testing.scripted_model import Asked, Call, Say, ScriptedModel
from regrow_cli.machines import ENDS, records
from regrow_protocol import messages as m
from regrow_protocol import streams
from regrow_protocol.agents import Entry, conversation
from regrow_protocol.bus import Bus, Received

SCRIPTED = "scripted"
PROGRAMS = {"pi": "pi", "claude-code": "claude", "codex": "codex", "opencode": "opencode"}
PROVIDERS = {"claude-code": "anthropic", "codex": "openai"}
"""Of harnesses whose models' names do not begin with it."""
PATIENCE = 15.0
"""Seconds that an agent whose model has failed may take to go on; pi tries again by itself."""


class NoAgents(RegrowError):
    """The agents cannot work."""

    code = "no-agents"


@contextmanager
def choice(model: str, harness: str) -> Iterator[Choice]:
    """What the agents run; `scripted` is a model of our own, which runs meanwhile. Raises NoAgents."""
    program = PROGRAMS.get(harness)
    if program is None:
        raise NoAgents(f"REGROW_HARNESS={harness} is none of {', '.join(PROGRAMS)}")
    for needed in (program, "tmux"):
        if find_program(needed) is None:
            remedy = "make system-deps" if needed == "tmux" else f"make harnesses ARGS={harness}"
            raise NoAgents(f"{needed} is not installed, which agents need", hint=remedy)
    found = find_program(program)
    assert found is not None
    path = {"PATH": f"{found.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    if model != SCRIPTED:
        yield Choice(model, harness, path | provided(model, harness))
        return
    kept = tempfile.TemporaryDirectory(prefix="regrow-demo-", ignore_cleanup_errors=True)
    with kept as home, ScriptedModel(scripted_surveyor) as server:
        start = scripted(harness, server, Path(home))
        yield Choice(start.model, harness, path | start.env, start.options)


def provided(model: str, harness: str) -> dict[str, str]:
    """The variables of a model's provider, as ANTHROPIC_API_KEY for `anthropic/…`: no machine inherits keys."""
    provider = PROVIDERS.get(harness) or re.sub(r"\W", "_", model.partition("/")[0])
    prefix = "GEMINI_" if provider == "google" else f"{provider.upper()}_"
    return {name: value for name, value in os.environ.items() if name.startswith(prefix)}


def scripted_surveyor(asked: Asked) -> Say | Call:
    """The scripted model: it measures one package after the other, and reports. What is refused, it begins again."""
    told = [turn.text for turn in asked.turns if turn.role == "user" and TASK in turn.text]
    packages = re.findall(r"^- `(.+)`$", told[0], re.MULTILINE) if told else []
    answers = [turn.text for turn in asked.turns if turn.role == "tool"]
    if not packages or any("Thank you." in answer for answer in answers):
        return Say("Ready.")
    at = len(answers) % (len(packages) + 1)
    if at < len(packages):
        return Call("measure", {"package": packages[at]})
    return Call("report", {"finding": f"{len(packages)} packages are measured."})


class Watch:
    """Follows the agents' conversations. What goes wrong is said at once; what stays wrong ends the survey.

    Attributes:
        names: of agents, by their ids.
        reason: why the survey was ended.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.names: dict[str, str] = {}
        self.reason = ""
        self._say = say
        self._said: set[tuple[str, str]] = set()
        self._wrong: dict[str, tuple[float, str]] = {}
        self._last: dict[str, str] = {}

    @asynccontextmanager
    async def following(self, bus: Bus, root: RemoteProcess) -> AsyncGenerator[None]:
        """Follow the agents of a survey. Raises NoAgents where it had to be ended."""
        reader = bus.read(streams.AGENTS, conversation(root.app, "*"), 1, self._heard)
        ending = asyncio.create_task(self._end_if_stuck(root))
        try:
            yield
        except ExecutionCancelled:
            if self.reason:
                raise NoAgents(self.reason) from None
            raise
        finally:
            ending.cancel()
            await asyncio.gather(ending, reader.stop(), return_exceptions=True)

    async def _end_if_stuck(self, root: RemoteProcess) -> None:
        while not self.reason:
            await asyncio.sleep(0.2)
            for agent, (since, what) in self._wrong.items():
                if time.monotonic() > since + PATIENCE:
                    self.reason = f"{self.names.get(agent, agent)} is stuck: {what}"
        await root.cancel(self.reason)

    def _heard(self, messages: list[Received]) -> None:
        for message in messages:
            entry = m.decode(message.data, Entry)
            agent, data = message.subject.split(".")[3], m.decode(entry.data, dict)
            if entry.type == "note" and "error" in data:
                self._goes_wrong(agent, str(data["error"]), time.monotonic())
            elif entry.type == "stalled":
                last = self._last.get(agent, "it has not begun")
                self._goes_wrong(agent, f"nothing was heard of it for {data['seconds']:g} s; {last}", 0.0)
            elif entry.type in ("call", "text"):
                self._wrong.pop(agent, None)
                self._last[agent] = f"it said: {data['text']}" if "text" in data else f"it called {data['tool']}"

    def _goes_wrong(self, agent: str, what: str, since: float) -> None:
        earlier, _ = self._wrong.get(agent, (since, ""))
        self._wrong[agent] = (min(since, earlier), what)
        if (agent, what) not in self._said:
            self._said.add((agent, what))
            self._say(f"{self.names.get(agent, agent)}: {what}")


async def end_machines(client: Client, app: str) -> None:
    """End what the agents run on, and they with it: machines outlive their stack."""
    async with acting(client, app):
        left = [each.record for each in await records(client.bus) if each.record.state not in ENDS]
        await asyncio.gather(*(Machine(box.id, box.app, box.node, box.backend).stop() for box in left))
