"""What processes and the registry say to each other: endpoints, grants, calls from outside.

A command is a `messages.Command` with a key of `ARGUMENTS` as its name, on `regrow.command.registry.<app>`; any
registry may take it.

For clients that are no processes, each endpoint of a public process is the NATS request
`regrow.api.<name>.<endpoint>` with a JSON object of arguments; its answer is the result's JSON, or an error with the
headers of NATS micro services. `call` is the durable variant: stored, and answered on the reply subject of its command,
whether or not its sender still lives.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct

from . import subjects
from .agents import Tool
from .messages import Failure

SERVICE = "registry"
BUCKET = "regrow_endpoints"


def registry_subject(app: str) -> str:
    """A command to the registry."""
    return f"regrow.command.{SERVICE}.{subjects.token(app)}"


COMMANDS = f"regrow.command.{SERVICE}.*"
"""Filter: commands to the registry, of all apps."""


def process_key(pid: str) -> str:
    """Key of an `EndpointsRecord`."""
    return f"process.{pid}"


def name_key(name: str) -> str:
    """Key of a `PublicName`."""
    return f"name.{subjects.token(name)}"


def grant_key(agent: str, grant: str) -> str:
    """Key of a `Grant`; with `*` for either, a filter."""
    return f"grant.{agent}.{grant}"


def api_subject(name: str, endpoint: str) -> str:
    """The request that calls an endpoint of a public process."""
    return f"regrow.api.{subjects.token(name)}.{subjects.token(endpoint)}"


def call_record_subject(app: str, pid: str, endpoint: str) -> str:
    """Where the `CallRecord` of a call from outside, or of an agent's to what was attached to it, is published."""
    return f"regrow.called.{subjects.token(app)}.{pid}.{subjects.token(endpoint)}"


class ExposeEndpoint(Struct, frozen=True, omit_defaults=True):
    """`expose`: the process that sends this serves an endpoint from now on. No answer.

    Attributes:
        type: of the process.
        name: under which the process is public; empty: it is not.
        incarnation, n: of the operation; the latest one of an endpoint stands.
    """

    type: str
    endpoint: Tool
    name: str = ""
    incarnation: int = 0
    n: int = 0


class Withdraw(Struct, frozen=True, omit_defaults=True):
    """`withdraw`: the process that sends this serves no more of what it exposed before. No answer.

    Attributes:
        incarnation: of what is withdrawn; earlier ones too.
        ended: the process has, so it will expose nothing more; its grants and its public name go as well.
    """

    incarnation: int = 0
    ended: bool = False


class Attach(Struct, frozen=True, omit_defaults=True):
    """`attach`: endpoints of process `pid` become tools of `agent`; the answer is the grant's id, `g_…`.

    Attributes:
        only: names of endpoints; None: all, those that are exposed later too.
        prefix: put before their names.
        rate: calls per minute in all; 0: any number.
        seconds: until it expires; 0: never.
    """

    pid: str
    agent: str
    only: list[str] | None = None
    prefix: str = ""
    rate: float = 0.0
    seconds: float = 0.0


class Detach(Struct, frozen=True):
    """`detach`: revoke a grant; the answer is null."""

    grant: str


class CallEndpoint(Struct, frozen=True, omit_defaults=True):
    """`call` an endpoint of the public process `name`, or of `pid`; the answer is its result."""

    endpoint: str
    args: Raw = Raw(b"{}")
    name: str = ""
    pid: str = ""


class EndpointsRecord(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`regrow_endpoints`, key `process.<pid>`: what a living process serves.

    Attributes:
        type: of the process.
        name: under which it is public; empty: it is not.
        endpoints: by name.
        since: endpoint → incarnation and number of the operation that exposed it.
        incarnation: what is exposed by this one and earlier ones counts no more.
        ended: the process has; the record stays a while, so that a command that comes late changes nothing.
    """

    pid: str
    app: str
    type: str
    name: str = ""
    endpoints: dict[str, Tool] = {}
    since: dict[str, list[int]] = {}
    created: float = 0.0
    incarnation: int = -1
    ended: bool = False


class PublicName(Struct, frozen=True):
    """`regrow_endpoints`, key `name.<name>`: the process that has a public name; of several the first one has it."""

    pid: str
    app: str


class Grant(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`regrow_endpoints`, key `grant.<agent>.<id>`: an agent may call endpoints of a process.

    Attributes:
        id: `g_…`, made from the id of the command.
        by: pid of who granted it; empty for a client.
        only, prefix, rate: see `Attach`.
        expires: seconds since 1970; 0: never. One that was revoked expired then.
    """

    id: str
    app: str
    agent: str
    pid: str
    by: str = ""
    only: list[str] | None = None
    prefix: str = ""
    rate: float = 0.0
    expires: float = 0.0
    created: float = 0.0


class CallRecord(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A call that came through the registry or a gateway and has ended, on `regrow.called.<app>.<pid>.<endpoint>`.

    Attributes:
        id: of the call.
        caller: an agent's id, a client's id, or a process's.
        started: seconds since 1970.
        duration: seconds.
        size: bytes of the result's JSON.
        error: of a failed one.
    """

    id: str
    app: str
    pid: str
    endpoint: str
    caller: str
    started: float
    duration: float
    size: int = 0
    error: Failure | None = None


ARGUMENTS: dict[str, type[Struct]] = {
    "expose": ExposeEndpoint,
    "withdraw": Withdraw,
    "attach": Attach,
    "detach": Detach,
    "call": CallEndpoint,
}

ANSWERS: dict[str, Any] = {"expose": None, "withdraw": None, "attach": str, "detach": None, "call": Any}
"""What each command's answer is."""
