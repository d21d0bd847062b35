"""Why a process failed, as data that a program can act on."""

from __future__ import annotations

import sysconfig
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw
from regrow_protocol.errors import ValueTooLarge
from regrow_protocol.messages import EventRecord, Failure, FailureReport

from .codec import from_raw, to_raw
from .operations import Pending, is_program

if TYPE_CHECKING:
    from .process import Process

LISTED = 50
"""Operations and children that a failure lists."""


@dataclass(frozen=True)
class ProcessFailure:
    """Why a process failed; `handle.failure`, and `failure` of the ExecutionFailed that awaiting it raises.

    Attributes:
        reason: what it said, or its exception's text.
        error: class name of its exception.
        code: stable code of the error: `exception`, `failed` (by `fail`), `timeout`, `host-lost`, ….
        retryable: false when it said that another try is of no use.
        pid, type, incarnation: of the process.
        args: its arguments by name, as they travel; None where they are not known here.
        ran_for: seconds of its own clock, in the incarnation that failed.
        traceback: lines of the program, as `survey.py:41 in main`, the innermost last.
        pending: operations under way when it failed, as `step fetch`.
        children: pids of those that ran then.
        agents: their ids.
        machines: id → snapshot id of its machines; empty where there is none.
    """

    reason: str
    error: str = ""
    code: str = ""
    retryable: bool = True
    pid: str = ""
    type: str = ""
    args: dict[str, Any] | None = None
    incarnation: int = 0
    ran_for: float = 0.0
    traceback: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    machines: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, failure: Failure, pid: str) -> ProcessFailure:
        """What was recorded."""
        report = failure.report or FailureReport("")
        args = from_raw(report.args) if isinstance(report.args, Raw) else None
        return cls(
            failure.message, failure.error, failure.code, failure.retryable, pid, report.type, args,
            report.incarnation, report.ran_for, report.traceback, report.pending, report.children, report.agents,
            dict.fromkeys(report.machines, "") | failure.snapshots,
        )  # fmt: skip


_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def program_lines(error: BaseException, home: str) -> list[str]:
    """The lines of the program that an exception went through; the same wherever the program runs.

    Args:
        error: the exception.
        home: folder of the program's code: what is in it counts, also where it is installed among libraries.
    """

    def counts(file: str) -> bool:
        return is_program(file) and (file.startswith(home) or not file.startswith(_LIBRARIES))

    frames = traceback.extract_tb(error.__traceback__)
    return [f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in frames if counts(f.filename)]


def pending_in(process: Process) -> list[str]:
    """Operations under way, as `step fetch`, the oldest first; not all of very many."""
    under_way = [step.pending for step in process.steps.values()]
    under_way += [each for each in process.relations.calls.values() if isinstance(each, Pending)]
    under_way.sort(key=lambda pending: pending.op.n)
    names = [f"{each.op.kind} {each.op.name}".rstrip() for each in under_way[:LISTED]]
    return names + [f"receive {name}" for name in process.mailbox.awaited[:LISTED]]


def report_of(process: Process, lines: list[str]) -> FailureReport:
    """What is under way in a process at the moment in which it fails."""
    start = process.start
    assert start is not None
    known = process.relations.keepsakes.known
    return FailureReport(
        type=start.type,
        incarnation=process.incarnation,
        ran_for=round(process.clock - process.began_at, 6),
        traceback=lines,
        pending=pending_in(process),
        children=[child.pid for child in process.relations.open.values()][:LISTED],
        agents=[id_ for id_ in known if id_.startswith("a_")],
        machines=[id_ for id_ in known if id_.startswith("m_")],
    )


def failure_data(failure: Failure, args: Raw | None = None) -> dict[str, Any]:
    """The data of a `failed` or `restarted` event."""
    data: dict[str, Any] = {
        "reason": failure.message,
        "error": failure.error,
        "code": failure.code,
        "retryable": failure.retryable,
    }
    if failure.snapshots:
        data["snapshots"] = failure.snapshots
    if failure.report is not None:
        data |= msgspec.structs.asdict(failure.report)
        data["args"] = args
    return data


def failure_raw(failure: Failure, args: Raw | None = None) -> Raw:
    """That data as JSON; without arguments that leave no room for it."""
    try:
        return to_raw(failure_data(failure, args))
    except ValueTooLarge:
        return to_raw(failure_data(failure))


def failed_record(pid: str, seq: int, time: float, failure: Failure) -> EventRecord:
    """The last event of a process that announces none itself, as number `seq` of what a watcher sees of it."""
    return EventRecord(
        pid=pid, incarnation=0, n=0, seq=seq, type="failed", time=time, data=failure_raw(failure), final=True
    )


def failure_in(data: dict[str, Any]) -> Failure:
    """What the data of such an event tells."""
    report = None
    if "type" in data:
        told = {name: data[name] for name in FailureReport.__struct_fields__ if name in data}
        told["args"] = Raw(msgspec.json.encode(data.get("args")))
        report = FailureReport(**told)
    return Failure(data["error"], data["reason"], data["code"], data["retryable"], data.get("snapshots", {}), report)
