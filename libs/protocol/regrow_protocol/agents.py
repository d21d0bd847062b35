"""What processes and the agent-gateway say to each other: arguments and answers of commands, conversations, records.

A command is a `messages.Command` with a key of `ARGUMENTS` as its name, on `regrow.command.agent.<app>.<agent>`
(`enrol`: on `regrow.command.agent.<app>.enrol`); any gateway may take it. Its answer is a `Result` in the inbox of the
process that sent it, or a `Reply` to a client.

An agent's conversation is the `Entry`s on `regrow.agent.<app>.<agent>.<type>.<key>`, in the order of their stream. Each
has a subject of its own, the key being made from its id, and is published only where none stands: so it is there once,
whoever repeats it and however late. A tool call is an `Entry` on `….call.<key>` and a `messages.ToolCall` in the inbox
of whose tool it is, which publishes the `Entry` on `….result.<key>` itself: a repeated call finds what it was answered.

What a gateway has to tell an agent's owner comes as a `messages.Call` without an answer to the owner's endpoint
`news_endpoint(agent)`, with the fields of `News` as arguments.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from . import subjects
from .machines import MachineRef, Nothing
from .messages import Failure, Ref

SERVICE = "agent"
BUCKET = "regrow_agents"


# Subjects and names ---------------------------------------------------------------------------------------------------


def enrol_subject(app: str) -> str:
    """A command that makes an agent."""
    return f"regrow.command.{SERVICE}.{subjects.token(app)}.enrol"


def agent_subject(app: str, agent: str) -> str:
    """A command about an agent."""
    return f"regrow.command.{SERVICE}.{subjects.token(app)}.{agent}"


COMMANDS = f"regrow.command.{SERVICE}.*.*"
"""Filter: commands to the gateway, of all apps."""


def entry_subject(app: str, agent: str, type_: str, key: str) -> str:
    """An entry of an agent's conversation; `key` is its `entry_key`, of a call and its result the `call_key`."""
    return f"regrow.agent.{subjects.token(app)}.{agent}.{subjects.token(type_)}.{key}"


def answer_subject(app: str, agent: str, call: str) -> str:
    """The `result` entry of a tool call, which whoever serves the tool publishes."""
    return entry_subject(app, agent, "result", call)


def conversation(app: str, agent: str) -> str:
    """Filter: the whole conversation of an agent."""
    return f"regrow.agent.{subjects.token(app)}.{agent}.>"


def entries_of(app: str, agent: str, type_: str) -> str:
    """Filter: the entries of one type of an agent's conversation."""
    return entry_subject(app, agent, type_, "*")


def entry_key(id_: str) -> str:
    """The id of an entry as a token of subjects."""
    return hashlib.blake2b(id_.encode(), digest_size=16).hexdigest()


def call_key(session: str, call: str) -> str:
    """A tool call as a token of subjects: 32 hex digits that stand for the harness's own call id in its session."""
    return hashlib.blake2b(f"{session}\0{call}".encode(), digest_size=16).hexdigest()


def tool_endpoint(agent: str, tool: str) -> str:
    """Endpoint of the owner that serves a tool of its agent. No `@expose` can take such a name."""
    return f"{agent}/{tool}"


def news_endpoint(agent: str) -> str:
    """Endpoint of the owner that hears of its agent."""
    return f"{agent}/"


# What agents are given ------------------------------------------------------------------------------------------------


class Tool(Struct, frozen=True, omit_defaults=True):
    """A function that an agent, or anybody outside, may call: a tool of an agent, or an endpoint of a process.

    Attributes:
        name: 1 to 64 letters, digits, `-` and `_`.
        description: what it does, for a model.
        schema: JSON Schema (2020-12) of its arguments, an object.
        version: digest of the three above (hex, 64 bits).
    """

    name: str
    description: str = ""
    schema: Raw = Raw(b'{"type":"object"}')
    version: str = ""


class LaunchFile(Struct, frozen=True, omit_defaults=True):
    """A file that a harness needs on its machine.

    Attributes:
        path: relative to the machine's workdir.
    """

    path: str
    data: bytes
    mode: int = 0o600


class Launch(Struct, frozen=True, omit_defaults=True):
    """How an agent's harness is started on its machine.

    Attributes:
        session: counts the starts of this agent, from 1.
        files: to be written first.
        command: for the machine's `exec`. It runs for as long as the harness does, and ends with its exit code; being
            killed, it takes the harness and all that it started with it.
        env: variables of the command.
        folder: of the agent on the machine, relative to its workdir; `tmux.sock` in it is the socket of its terminal.
    """

    session: int
    files: list[LaunchFile]
    command: str
    env: dict[str, str] = {}
    folder: str = ""


# Arguments ------------------------------------------------------------------------------------------------------------


class Enrol(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`enrol` an agent; the answer is `Enrolled`. Its owner is the process that asks.

    Attributes:
        name: as its owner calls it, unique among the living agents of its owner.
        harness: name of an entry point of `regrow.harnesses`.
        machine: where it runs; None: nobody starts it, it comes by itself with its URL and token.
        workdir: of that machine, as `describe` tells it.
        system_prompt, model: for the harness; empty: its own.
        env: variables of the harness.
        tools: that it has from the first.
        stall_after: seconds without a turn after which its owner is told; None: never.
        turns_every: its owner is told of turns, once in so many seconds at the most; 0: it is not.
        options: the harness's own.
    """

    name: str
    harness: str
    machine: MachineRef | None = None
    workdir: str = ""
    system_prompt: str = ""
    model: str = ""
    env: dict[str, str] = {}
    tools: list[Tool] = []
    stall_after: float | None = None
    turns_every: float = 0.0
    options: dict[str, str] = {}


class Enrolled(Struct, frozen=True, omit_defaults=True):
    """An agent that was enrolled.

    Attributes:
        id: `a_…`, made from the id of the command.
        url: of its doors, as `http://127.0.0.1:8420/agents/a_…`.
        token: that opens them.
        launch: None where nobody starts it.
    """

    id: str
    url: str
    token: str
    launch: Launch | None = None


class Tools(Struct, frozen=True, omit_defaults=True):
    """`tools`: these are the agent's own tools from now on. No answer.

    Attributes:
        version: grows with each such command of the owner, from 1 (that of `enrol` is 0); an older one changes nothing.
    """

    version: int
    tools: list[Tool]


class Send(Struct, frozen=True, omit_defaults=True):
    """`send` the agent a message; the answer is its sequence, once it is stored.

    Attributes:
        tools: version of the tools that it must know before it reads this.
        sender: who says it, shown to the agent; empty for its owner.
    """

    text: str
    tools: int = 0
    sender: str = ""


class ReadConversation(Struct, frozen=True, omit_defaults=True):
    """`read` the conversation; the answer is a `Page`.

    Attributes:
        after: sequence of the last entry known.
        wait: answer only when there is a later one, or the agent has ended.
        most: entries in one answer.
    """

    after: int = 0
    wait: bool = True
    most: int = 100


class Page(Struct, frozen=True, omit_defaults=True):
    """A part of a conversation.

    Attributes:
        entries: with their sequences in `seq`.
        ended: nothing will follow.
    """

    entries: list[Entry] = []
    ended: bool = False


class Connect(Struct, frozen=True, omit_defaults=True):
    """`connect` the agent to another one of its app: both ways, or only from this one. No answer."""

    other: str
    direction: Literal["both", "forward"] = "both"


class Relaunch(Struct, frozen=True, omit_defaults=True):
    """`relaunch`: the harness has ended; the answer is the `Launch` that continues its conversation.

    Attributes:
        session: that has ended; a later one than that stands is answered again.
    """

    session: int
    exit_code: int = 0


class Lost(Struct, frozen=True, omit_defaults=True):
    """`lost`: the harness has ended and is not started again; the answer is null."""

    session: int
    exit_code: int = 0
    reason: str = ""


# Conversations --------------------------------------------------------------------------------------------------------

EntryType = Literal[
    "message",  # to the agent: {text, sender}
    "call",  # {tool, args, endpoint, pid, grant}
    "result",  # {value} or {error: Failure}
    "text",  # what the model said: {text}
    "turn",  # {state: "started" | "ended"}
    "usage",  # {model, input, output, cache_read, cache_write, cost}
    "note",  # whatever else the harness tells
    "registered",  # the harness has come: {session}
    "lost",  # {exit_code, reason, again}
    "stalled",  # {seconds}
    "ended",  # {reason}
]


class Entry(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An entry of a conversation, on `regrow.agent.<app>.<agent>.<type>.<key>`.

    Attributes:
        id: of its kind in this conversation.
        type: see `EntryType`.
        time: seconds since 1970.
        data: JSON object.
        session: of the harness, from 1; 0 where there was none.
        call: of `call` and `result`, the `call_key`.
        seq: its sequence in the stream; set by who has read it, 0 in the stream itself.
    """

    id: str
    type: str
    time: float = 0.0
    data: Raw = Raw(b"{}")
    session: int = 0
    call: str = ""
    seq: int = 0


class Usage(Struct, frozen=True, omit_defaults=True):
    """What a turn has used, the data of a `usage` entry; also the sum of several.

    Attributes:
        input, output, cache_read, cache_write: tokens.
        cost: US dollars, as the harness says.
    """

    model: str = ""
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cost: float = 0.0


class News(Struct, frozen=True, omit_defaults=True):
    """What the owner of an agent hears of it.

    Attributes:
        what: `registered` (once per session), `turn`, `stalled`, `lost` (its doors are silent and nobody says why).
        session: of the harness.
    """

    what: Literal["registered", "turn", "stalled", "lost"]
    session: int
    data: Raw = Raw(b"{}")


# Records --------------------------------------------------------------------------------------------------------------

AgentState = Literal["enrolled", "running", "lost", "ended"]


class AgentRecord(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`regrow_agents`, key `agent.<id>`, changed by compare-and-set.

    Attributes:
        command: id of the command that enrolled it.
        owner: operation of the process that did.
        state: `enrolled`, `running` (its harness has come), `lost`, `ended` (its token opens nothing).
        session: of the harness, from 1; grows with each start.
        tools, tools_version: its own, see `Tools`.
        links: id → name of the agents that it may speak to.
        ended: when, seconds since 1970.
        reason: why it is lost or has ended.
        usage: the sum of its `usage` entries up to sequence `counted`.
    """

    id: str
    app: str
    command: str
    name: str
    owner: Ref
    harness: str
    state: AgentState = "enrolled"
    machine: MachineRef | None = None
    workdir: str = ""
    folder: str = ""
    system_prompt: str = ""
    model: str = ""
    env: dict[str, str] = {}
    options: dict[str, str] = {}
    session: int = 1
    tools: list[Tool] = []
    tools_version: int = 0
    links: dict[str, str] = {}
    stall_after: float | None = None
    turns_every: float = 0.0
    created: float = 0.0
    ended: float = 0.0
    reason: str = ""
    usage: Usage | None = None
    counted: int = 0


ARGUMENTS: dict[str, type[Struct]] = {
    "enrol": Enrol,
    "tools": Tools,
    "send": Send,
    "read": ReadConversation,
    "connect": Connect,
    "relaunch": Relaunch,
    "lost": Lost,
    "stop": Nothing,  # its token opens nothing any more
    "describe": Nothing,
}

ANSWERS: dict[str, Any] = {
    "enrol": Enrolled,
    "tools": None,
    "send": int,
    "read": Page,
    "connect": None,
    "relaunch": Launch,
    "lost": None,
    "stop": None,
    "describe": AgentRecord,
}
"""What each command's answer is."""


class Outcome(Struct, frozen=True, omit_defaults=True):
    """The data of a `result` entry.

    Attributes:
        value: the result's JSON; absent when there is an `error`.
    """

    value: Raw | UnsetType = UNSET
    error: Failure | None = None


ENTRIES: dict[str, type[Struct]] = {"result": Outcome, "usage": Usage}
"""The data of entries that has a type of its own."""
