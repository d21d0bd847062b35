"""What a harness is: the small contract between the gateway and a program that runs an agent.

A harness is a class found by an entry point of the group `regrow.harnesses`, whose name is that which `agent(harness=)`
takes. It only says how its program is started: which files it needs in the agent's folder and what to run. It touches
no machine and keeps nothing; `launch` of the same setting gives the same again.

What is the same for all: `run.sh` starts the program in a tmux terminal on a private socket, waits for it, ends with
its exit code, and leaves no process behind (`launching/run.sh` says how). The program reaches the gateway's doors by
the variables that `VARIABLES` lists. Messages to the agent come in one of two ways, see `Harness.messages`.
"""

from __future__ import annotations

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files as resources
from typing import ClassVar, Literal

from regrow_protocol.agents import Launch, LaunchFile
from regrow_protocol.errors import RegrowError

GROUP = "regrow.harnesses"

VARIABLES = {
    "REGROW_AGENT_URL": "of its doors, as `http://127.0.0.1:8420/agents/a_…`",
    "REGROW_AGENT_TOKEN": "opens them",
    "REGROW_AGENT_ID": "`a_…`",
    "REGROW_AGENT_NAME": "as its owner calls it",
    "REGROW_AGENT_SESSION": "counts its starts, from 1; to be told to the doors (`Regrow-Session`)",
    "REGROW_AGENT_RESUME": "`1`: an earlier session has ended, and its conversation shall go on; else `0`",
    "REGROW_AGENT_MODEL": "empty: the harness's own",
    "REGROW_AGENT_FOLDER": "on the machine, for what the harness keeps; an absolute path, set there",
}
"""What every harness is given by environment. Its system prompt, if it has one, is the file `system-prompt` there."""

SYSTEM_PROMPT = "system-prompt"

_OPTION = re.compile(r"[a-z][a-z0-9_]*")


class UnknownHarness(RegrowError):
    """No installed package has a harness of that name."""

    code = "unknown-harness"


class BadSetting(RegrowError):
    """An agent's options that its harness cannot be started with."""

    code = "bad-setting"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a harness is started with.

    Attributes:
        id: of the agent, `a_…`.
        name: as its owner calls it.
        session: counts its starts, from 1.
        resume: an earlier session has ended, and its conversation shall go on.
        url, token: of its doors.
        system_prompt, model: empty: the harness's own.
        env: further variables, the user's.
        options: the harness's own.
        folder: of the agent on the machine, relative to its workdir.
        workdir: of the machine, an absolute path there.
    """

    id: str
    name: str
    session: int
    resume: bool
    url: str
    token: str
    folder: str
    workdir: str
    system_prompt: str = ""
    model: str = ""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    options: Mapping[str, str] = field(default_factory=dict[str, str])

    def path(self, name: str) -> str:
        """Absolute path, on the machine, of a file in the agent's folder."""
        return f"{self.workdir.rstrip('/')}/{self.folder}/{name}"

    def file(self, name: str, data: str | bytes, mode: int = 0o600) -> LaunchFile:
        """A file in the agent's folder."""
        return LaunchFile(f"{self.folder}/{name}", data.encode() if isinstance(data, str) else data, mode)

    def check_options(self, known: Iterable[str]) -> None:
        """Raises BadSetting when there are options that the harness does not know."""
        wrong = sorted(set(self.options) - set(known))
        if wrong:
            raise BadSetting(
                f"The agent {self.name!r} has options that its harness does not know: {', '.join(wrong)[:200]}",
                hint=f"it knows {', '.join(sorted(known)) or 'none'}",
            )


class Harness(ABC):
    """Starts one kind of program.

    Attributes:
        name: the same as its entry point's.
        messages: how messages reach it. `door`: it takes them from the gateway itself. `spool`: the gateway writes
            message N, as it is to be shown, into the file `spool/<N, 20 digits>` of the agent's folder and signals the
            channel `spool` of its terminal; `spooled` makes a launch that feeds them to it.
    """

    name: ClassVar[str]
    messages: ClassVar[Literal["door", "spool"]] = "door"

    @abstractmethod
    def launch(self, setting: Setting) -> Launch:
        """How the program is started; made by `started` or `spooled`.

        Raises:
            BadSetting: not with these options.
        """


def started(
    setting: Setting,
    program: str | Sequence[str],
    *,
    files: Iterable[LaunchFile] = (),
    env: Mapping[str, str] | None = None,
) -> Launch:
    """The launch of a program that has a door of its own.

    Args:
        setting: of the agent.
        program: and its arguments; a string is a text for `sh`. It starts in the machine's workdir.
        files: that it needs, see `Setting.file`.
        env: its own variables; the user's come before these, and `VARIABLES` before all.
    """
    text = program if isinstance(program, str) else f"exec {shlex.join(program)}\n"
    own = [setting.file("run.sh", script("run.sh")), setting.file("program", text)]
    if setting.system_prompt:
        own.append(setting.file(SYSTEM_PROMPT, setting.system_prompt))
    return Launch(
        session=setting.session,
        files=[*own, *files],
        command=f"exec sh {shlex.quote(setting.folder)}/run.sh",
        env={**(env or {}), **setting.env, **variables(setting)},
        folder=setting.folder,
    )


def spooled(
    setting: Setting,
    turn: str,
    *,
    begin: str = "",
    files: Iterable[LaunchFile] = (),
    env: Mapping[str, str] | None = None,
) -> Launch:
    """The launch of a program that is run once for each message (`launching/driver.sh`).

    Args:
        setting: of the agent.
        turn: text for `sh` that runs one turn in the terminal, in the machine's workdir. `$1` is the file that holds
            the message, `$2` counts the turns of this agent, from 1. An exit code but 0 ends the session, and the turn
            comes again in the next one.
        begin: text for `sh` that comes before the turns of each session.
        files, env: as of `started`.
    """
    more = [setting.file("driver.sh", script("driver.sh")), setting.file("turn", turn)]
    return started(setting, f'{begin}exec sh "$REGROW_AGENT_FOLDER/driver.sh"\n', files=[*more, *files], env=env)


def variables(setting: Setting) -> dict[str, str]:
    """The values of `VARIABLES`, but for the one that is set on the machine."""
    return {
        "REGROW_AGENT_URL": setting.url,
        "REGROW_AGENT_TOKEN": setting.token,
        "REGROW_AGENT_ID": setting.id,
        "REGROW_AGENT_NAME": setting.name,
        "REGROW_AGENT_SESSION": str(setting.session),
        "REGROW_AGENT_RESUME": "1" if setting.resume else "0",
        "REGROW_AGENT_MODEL": setting.model,
    }


@cache
def find(name: str) -> Harness:
    """The harness `name`.

    Raises:
        UnknownHarness: no installed package has it, or that cannot be loaded.
    """
    points = entry_points(group=GROUP)
    if name not in points.names:
        raise UnknownHarness(
            f"There is no harness {name[:80]!r}", hint=f"installed are {', '.join(sorted(points.names)) or 'none'}"
        )
    try:
        kind: type[Harness] = points[name].load()
        return kind()
    except Exception as error:
        raise UnknownHarness(
            f"The harness {name!r} cannot be loaded: {type(error).__name__}: {error}",
            hint="install its package again, or take another",
        ) from error


def script(name: str) -> bytes:
    """A file of the folder `launching`."""
    return (resources(__package__ or "") / "launching" / name).read_bytes()
