"""What processes and the machine-manager say to each other: arguments and answers of commands, and records.

A command is a `messages.Command` with a key of `ARGUMENTS` as its name, on
`regrow.command.machine.<app>.create` (any manager may take it) or
`regrow.command.machine.<app>.node.<node>.<machine>` (the managers of that node). Its answer is a `Result` in the inbox
of the process that sent it, or a `Reply` to a client. What a command's program writes while it runs comes as `Chunk`s.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Raw, Struct

from . import subjects
from .images import Image
from .messages import Failure, Ref

SERVICE = "machine"

MAX_OUTPUT = 1024 * 1024
"""Bytes that are kept of each of a command's outputs unless it says otherwise."""

MAX_MAX_OUTPUT = 16 * 1024 * 1024
"""Bytes of each output that can be asked for; of one that is streamed, a GiB (`MAX_STREAM`)."""

MAX_STREAM = 1024 * 1024 * 1024

MAX_FILE = 32 * 1024 * 1024
"""Bytes of a file that `write` and `read` carry; larger ones go as folders do (`pack`, `unpack`)."""

PART = 8 * 1024 * 1024
"""Bytes of each part of a folder's archive."""


def create_subject(app: str) -> str:
    """A command that makes a machine: any manager may take it."""
    return f"regrow.command.{SERVICE}.{subjects.token(app)}.create"


def machine_subject(app: str, node: str, machine: str) -> str:
    """A command to a machine, for the managers of its node."""
    return f"regrow.command.{SERVICE}.{subjects.token(app)}.node.{subjects.token(node)}.{machine}"


CREATIONS = f"regrow.command.{SERVICE}.*.create"
"""Filter: creations of all apps."""


def node_commands(node: str) -> str:
    """Filter: commands to the machines of a node."""
    return f"regrow.command.{SERVICE}.*.node.{subjects.token(node)}.*"


def nodes_commands() -> str:
    """Filter: commands to the machines of all nodes; the node is the sixth token."""
    return f"regrow.command.{SERVICE}.*.node.*.*"


OF_A_PROGRAM = "program"
"""Backend of a machine that is an object of the program that made it: no manager reaches it."""

ENGINES_COMPUTER = "host.docker.internal"
"""Name of the engine's computer in each Docker machine, as in Docker Desktop: agents reach their gateway by it."""


class MachineRef(Struct, frozen=True, omit_defaults=True):
    """A machine as its users know it; the answer to `create` and in that to `fork`.

    Attributes:
        id: `m_…`, made from the id of the command that created it.
        app: whose it is.
        node: the managers that reach it.
        backend: its name.
    """

    id: str
    app: str
    node: str
    backend: str


# Arguments ------------------------------------------------------------------------------------------------------------


class Create(Struct, frozen=True, omit_defaults=True):
    """`create` a machine; the answer is a `MachineRef`.

    Attributes:
        image: what from.
        keep: it outlives its owner.
        labels: that its manager must have.
        wait: seconds to wait for room where there is none; 0: refused at once (`no-capacity`).
        name: shown in lists.
        snapshot_on_failure: when its owner fails, it is snapshotted before.
    """

    image: Image
    keep: bool = False
    labels: dict[str, str] = {}
    wait: float = 0.0
    name: str = ""
    snapshot_on_failure: bool = False


class Exec(Struct, frozen=True, omit_defaults=True):
    """`exec`: run a command, once, under the id of its message; the answer is an `ExecDone`.

    Attributes:
        command: for `sh -c`.
        user: `agent` (the machine's ordinary user), `root`, or a name.
        timeout: seconds from its start, after which its process group is killed.
        env: further variables.
        cwd: where it starts, relative to the machine's workdir.
        stdin: its input.
        stream: send what it writes as `Chunk`s while it runs.
        max_output: bytes that are kept of each output; what is beyond is counted and left out.
    """

    command: str
    user: str = "agent"
    timeout: float | None = None
    env: dict[str, str] = {}
    cwd: str = ""
    stdin: bytes | None = None
    stream: bool = False
    max_output: int = MAX_OUTPUT


class ExecDone(Struct, frozen=True, omit_defaults=True):
    """How a command ended.

    Attributes:
        exit_code: as a shell tells it: 128 + the signal's number for one that was killed.
        stdout, stderr: what it wrote, up to the cap. Empty where it was streamed.
        left_out: bytes of both that were beyond the cap.
        duration: seconds.
        timed_out: it was killed since its time was over.
        killed: it was killed on request.
    """

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""
    left_out: int = 0
    duration: float = 0.0
    timed_out: bool = False
    killed: bool = False


class Kill(Struct, frozen=True):
    """`kill` the command with this id, its whole process group: TERM, then KILL. No answer."""

    exec: str


class Write(Struct, frozen=True, omit_defaults=True):
    """`write` a file, whole or not at all, with the folders above it; the answer is null."""

    path: str
    data: bytes
    mode: int | None = None
    user: str = "agent"


class Read(Struct, frozen=True, omit_defaults=True):
    """`read` a file; the answer is its bytes (base64)."""

    path: str
    user: str = "agent"


class Unpack(Struct, frozen=True, omit_defaults=True):
    """`unpack` an archive into a folder, which is created; the answer is null.

    Attributes:
        parts: keys in the object store of the pieces of a tar file, gzipped.
    """

    path: str
    parts: list[str]
    user: str = "agent"


class Pack(Struct, frozen=True, omit_defaults=True):
    """`pack` a file or folder; the answer is the `parts` of its archive, as in `Unpack`."""

    path: str
    user: str = "agent"


class Snapshot(Struct, frozen=True, omit_defaults=True):
    """`snapshot` the machine's state; the answer is the snapshot's id, `s_…`."""

    name: str = ""


class MachineFork(Struct, frozen=True, omit_defaults=True):
    """`fork`: make `n` machines in its present state, with the same owner; the answer is a list of `MachineRef`s."""

    n: int = 1
    wait: float = 0.0


class Expose(Struct, frozen=True):
    """`expose` a TCP port of the machine; the answer is a `Port`."""

    port: int


class Port(Struct, frozen=True):
    """Where a machine's port is reached."""

    host: str
    port: int


class Give(Struct, frozen=True):
    """`give` the machine to another process of the app; the answer is null."""

    pid: str


class Nothing(Struct, frozen=True):
    """Arguments of `stop` (the answer is null) and `drop` (removes a snapshot)."""


class Describe(Struct, frozen=True, omit_defaults=True):
    """`describe` the machine; the answer is a `Description`.

    Attributes:
        line: of a shell, that its `shell` shall run on a terminal there and then end.
    """

    line: str = ""


class Description(Struct, frozen=True, omit_defaults=True):
    """What is known of a machine.

    Attributes:
        state: see `MachineRecord`.
        owner: pid of its process; empty for none.
        can: of `snapshot`, `fork`, `ports`, what its backend offers.
        shell: a program with arguments that opens a shell on it from the node, or runs the line that was asked for;
            empty where the backend cannot.
        workdir: where commands start, a path on the machine.
        root: that files must be under.
        details: the backend's own.
    """

    id: str
    app: str
    node: str
    backend: str
    state: str
    owner: str = ""
    name: str = ""
    created: float = 0.0
    keep: bool = False
    can: list[str] = []
    shell: list[str] = []
    workdir: str = ""
    root: str = ""
    details: dict[str, str] = {}


ARGUMENTS: dict[str, type[Struct]] = {
    "create": Create,
    "exec": Exec,
    "kill": Kill,
    "write": Write,
    "read": Read,
    "pack": Pack,
    "unpack": Unpack,
    "snapshot": Snapshot,
    "fork": MachineFork,
    "expose": Expose,
    "give": Give,
    "stop": Nothing,
    "describe": Describe,
    "drop": Nothing,
}

ANSWERS: dict[str, Any] = {
    "create": MachineRef,
    "exec": ExecDone,
    "kill": None,
    "write": None,
    "read": bytes,
    "pack": list[str],
    "unpack": None,
    "snapshot": str,
    "fork": list[MachineRef],
    "expose": Port,
    "give": None,
    "stop": None,
    "describe": Description,
    "drop": None,
}
"""What each command's answer is."""

# Records --------------------------------------------------------------------------------------------------------------

State = Literal["requested", "creating", "ready", "warm", "stopping", "stopped", "failed"]


class MachineRecord(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`regrow_machines`, key `machine.<id>`.

    Attributes:
        command: id of the command that asked for it.
        owner: operation of the process that owns it; its incarnation is -1 after a `give`: whichever. None: a client's,
            or kept; it lives until somebody stops it.
        image: that it was asked for with.
        state: `requested` (waits for a manager with room), `creating`, `ready`, `warm` (made in advance), `stopping`,
            `stopped`, `failed`.
        node: that claimed it; empty before.
        data: what its backend needs to reach it.
        host: of a pool, the one that it is on.
        deadline: until when it may wait for room, seconds since 1970.
        seen: when somebody last knew that its owner can come back, seconds since 1970.
        reply: subject that the answer to `create` goes to; empty for forks and warm ones.
        manager: id of the one that makes or ends it; when that one is gone another one goes on.
        source: of a fork, the machine that it is made from.
        reason: why it is stopped: `asked`, `owner done`, `owner lost`, ….
        failure: of a failed one, what its `create` is answered.
    """

    id: str
    app: str
    command: str
    image: Image
    state: State
    owner: Ref | None = None
    node: str = ""
    backend: str = ""
    data: Raw = Raw(b"null")
    host: str = ""
    name: str = ""
    keep: bool = False
    snapshot_on_failure: bool = False
    labels: dict[str, str] = {}
    deadline: float = 0.0
    created: float = 0.0
    seen: float = 0.0
    reply: str = ""
    manager: str = ""
    source: str = ""
    reason: str = ""
    failure: Failure | None = None


class SnapshotRecord(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`regrow_machines`, key `snapshot.<id>`.

    Attributes:
        machine: that it is of.
        node: whose managers can use it; empty: any that has the backend.
        image: of that machine.
        data: what its backend needs to find it.
    """

    id: str
    app: str
    machine: str
    backend: str
    image: Image
    node: str = ""
    data: Raw = Raw(b"null")
    name: str = ""
    created: float = 0.0


class NodeRecord(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`regrow_machines`, key `node.<node>`: what a node offers and what is claimed of it, changed by compare-and-set.

    Attributes:
        backends: that its managers have.
        labels: of the node.
        max_machines: 0: any number.
        memory: bytes that its machines may be promised in all; 0: any.
        claimed: machine id → bytes of memory promised to it.
        closed: why it takes no more at present, as a full disk; empty when it does.
        anywhere: of its backends, those whose machines other nodes with the backend reach too.
    """

    node: str
    backends: list[str] = []
    anywhere: list[str] = []
    labels: dict[str, str] = {}
    max_machines: int = 0
    memory: int = 0
    claimed: dict[str, int] = {}
    closed: str = ""


class ManagerRecord(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`regrow_machines`, key `manager.<id>`, with a TTL that the manager renews: a node with one is alive."""

    id: str
    node: str
    started: float = 0.0
