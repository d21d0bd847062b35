"""The records that a fold keeps of its operations until their outcome comes back, and what it sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from msgspec import Raw, Struct, UnsetType
from msgspec.structs import replace
from regrow_protocol import messages as m
from regrow_protocol.errors import RegrowError
from regrow_protocol.messages import Failure, Op

from .codec import digest_bytes, from_raw, result_type
from .definition import ProcessType
from .errors import InvalidArguments, StepFailed, execution_failed, failure_of, raised


@dataclass(slots=True)
class Env:
    """What all processes of a host share.

    Attributes:
        app: its name.
        build: of the code.
        partitions: how many the app has.
        types: process types by name.
    """

    app: str
    build: str
    partitions: int
    types: Mapping[str, ProcessType[Any, Any]]


@dataclass(slots=True, eq=False)
class Output:
    """A message that a turn sends.

    Attributes:
        to: `inbox` of process `target`, an `event` of it; on subject `target` a `reply`, a `command`, or an entry of an
            `agent`'s conversation.
        n: number in the id `<pid>.<incarnation>.<n>`.
    """

    to: Literal["inbox", "event", "reply", "command", "agent"]
    target: str
    message: Struct
    n: int


class Pending:
    """An operation whose answer is awaited.

    Attributes:
        op: what its answer echoes.
        future: what the body awaits.
        type_: annotation that the value is rebuilt by.
        base: class of the exception for a failure; for children their pid instead.
    """

    __slots__ = ("base", "future", "op", "type_")

    def __init__(
        self, op: Op, future: asyncio.Future[Any], type_: Any, base: type[RegrowError] | str = StepFailed
    ) -> None:
        self.op = op
        self.future = future
        self.type_ = type_
        self.base = base

    def settle(self, value: Raw | UnsetType, failure: Failure | None) -> None:
        """Hand the outcome to the body."""
        if self.future.done():
            return
        if failure is not None:
            error = execution_failed(failure, self.base) if isinstance(self.base, str) else raised(self.base, failure)
            self.future.set_exception(error)
            # Nobody may be waiting: a spawned child that fails is an event, not an unhandled error.
            self.future.exception()
            return
        try:
            self.future.set_result(from_raw(value, self.type_) if isinstance(value, Raw) else None)
        except Exception as error:  # noqa: BLE001 - `__post_init__` of the program's classes may raise anything
            what = f"The result of {self.op.kind} {self.op.name!r}"
            self.future.set_exception(
                InvalidArguments(f"{what} does not fit its annotation: {failure_of(error).message}")
            )
            self.future.exception()


class Child:
    """A child as its parent keeps it.

    Attributes:
        type, args: what it was spawned as.
        failure: why an incarnation of it has failed, the last one.
        keeper: who decides what becomes of it when it goes down; None for a temporary one.
        next_run: the incarnation after the last one that went down.
    """

    __slots__ = (
        "args", "ended", "failure", "feed_wanted", "keeper", "next_run", "op", "pending", "pid", "status", "type",
    )  # fmt: skip

    def __init__(self, pid: str, op: Op, pending: Any, type_: str, args: Raw) -> None:
        self.type = type_
        self.args = args
        self.failure: Failure | None = None
        self.keeper: Any = None
        self.next_run = 0
        self.pid = pid
        self.op = op
        self.pending = pending
        self.status: str = "running"
        self.ended = False
        self.feed_wanted = True

    def failed(self, failure: Failure | None) -> Failure | None:
        """An incarnation has ended, with that failure; as it is known here."""
        if failure is not None and failure.report is not None:
            failure = replace(failure, report=replace(failure.report, args=self.args))
        self.failure = failure
        return failure

    def end(self, message: m.Child) -> None:
        """Its outcome has come."""
        self.ended = True
        self.status = message.status
        failure = self.failed(message.error)
        if message.status == "cancelled" and failure is None:
            failure = Failure("CancelledError", "cancelled", "cancelled")
        self.pending.settle(message.value, failure)


@dataclass(slots=True, frozen=True)
class StepPolicy:
    """How a step runs.

    Attributes:
        retries: further tries after the first failed.
        backoff: seconds before the first retry; doubles with each, at most 60.
        timeout: seconds for one try, or None.
        name: shown in lists and compared on replay; by default the function's.
    """

    retries: int = 0
    backoff: float = 0.1
    timeout: float | None = None
    name: str = ""

    def delay(self, attempt: int) -> float:
        """Seconds to wait after try number `attempt`."""
        return min(60.0, self.backoff * 2.0 ** min(attempt - 1, 64))


@dataclass(slots=True)
class Step:
    """A step that the host shall run, or is running."""

    pending: Pending
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    policy: StepPolicy = field(default_factory=StepPolicy)

    @classmethod
    def of(
        cls,
        process: Any,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        policy: StepPolicy,
    ) -> Step:
        """A new step of `process`."""
        name = policy.name or getattr(function, "__qualname__", type(function).__name__)
        op = process.operation("step", name, digest_bytes([args, kwargs] if kwargs else args))
        return cls(Pending(op, process.loop.create_future(), cls.type_of(function)), function, args, kwargs, policy)

    @staticmethod
    def type_of(function: Callable[..., Any]) -> Any:
        """What the step's result is rebuilt as."""
        try:
            return result_type(function)
        except TypeError:  # unhashable callables have no annotations worth reading
            return Any


_HERE = str(Path(__file__).parent)
_ASYNCIO = str(Path(asyncio.__file__).parent)


def is_program(file: str) -> bool:
    """Whether a line of `file` may be one of the program, and not ours or asyncio's."""
    return not file.startswith((_HERE, _ASYNCIO, "<"))


def source_line(frame: FrameType | None) -> str:
    """The line of the program that is running, as `survey.py:41`."""
    while frame is not None:
        name = frame.f_code.co_filename
        if is_program(name):
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
