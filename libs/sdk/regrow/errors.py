"""Errors that a body or a client of processes meets. All are `RegrowError`s with a stable `code`."""

from __future__ import annotations

import builtins
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from msgspec import Raw
from regrow_protocol.errors import RegrowError
from regrow_protocol.messages import Failure

if TYPE_CHECKING:
    from .failures import ProcessFailure

E = TypeVar("E", bound=RegrowError)

MAX_TEXT = 16_384
"""Characters that the text of a failure may have; the rest is cut off."""


class ExecutionFailed(RegrowError):
    """A process that was awaited has failed.

    Attributes:
        reason: what it said, or its exception's text.
        error: class name of its exception.
        pid: of the process, where known.
        retryable: false when it said that another try is of no use.
        snapshots: of its machines' state when it failed, where it was kept: machine id → snapshot id.
        recorded: the failure as it stands in the log; None for an error that was made here.
    """

    code = "execution-failed"

    def __init__(
        self,
        reason: str,
        *,
        error: str = "",
        pid: str = "",
        retryable: bool = True,
        snapshots: dict[str, str] | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(reason, hint=hint)
        self.snapshots = snapshots or {}
        self.recorded: Failure | None = None
        self.reason = reason
        self.error = error
        self.pid = pid
        self.retryable = retryable

    @property
    def failure(self) -> ProcessFailure:
        """All that is known of it."""
        from .failures import ProcessFailure

        recorded = self.recorded or Failure(self.error, self.reason, retryable=self.retryable, snapshots=self.snapshots)
        return ProcessFailure.of(recorded, self.pid)


class ExecutionCancelled(ExecutionFailed):
    """A process that was awaited has been cancelled."""

    code = "execution-cancelled"


class StepFailed(RegrowError):
    """A step failed for good. It is also an instance of the exception's own class where that is a builtin one.

    Attributes:
        error: class name of the exception that the function raised.
    """

    code = "step-failed"
    error: str = ""


class CallFailed(RegrowError):
    """The endpoint raised. It is also an instance of the exception's own class where that is a builtin one."""

    code = "call-failed"
    error: str = ""


class Forked(StepFailed, CallFailed):
    """The operation was under way where this process was forked from another, which has the answer."""

    code = "forked"


class EndpointNotFound(RegrowError, ValueError):
    """The process exposes no endpoint of that name."""

    code = "endpoint-not-found"


class InvalidArguments(RegrowError, TypeError):
    """Arguments that do not fit the function's signature or annotations."""

    code = "invalid-arguments"


class NotSendable(RegrowError, TypeError):
    """A value that cannot travel in a message."""

    code = "not-sendable"


class ProcessEnded(RegrowError):
    """The process has ended; it answers no calls any more."""

    code = "process-ended"


class Overloaded(RegrowError):
    """The process is at a limit that it has set on how it may be used; another try may succeed later."""

    code = "overloaded"


class ProcessNotFound(RegrowError, LookupError):
    """There is no process of that id or name."""

    code = "process-not-found"


class EventNotSeen(RegrowError, LookupError):
    """The event stream ended without the event that was waited for."""

    code = "event-not-seen"


class OutsideProcess(RegrowError, RuntimeError):
    """An operation that only a process body may use."""

    code = "outside-process"


class NotAllowedInBody(RegrowError, RuntimeError):
    """I/O, a thread or a clock on the deterministic loop of a process body."""

    code = "not-allowed-in-body"


class NondeterminismError(RegrowError):
    """A replay made other operations than the recorded ones."""

    code = "nondeterminism"


class BodyHung(RegrowError):
    """A body did not give the loop back within the turn limit."""

    code = "body-hung"


class ProgramError(RegrowError):
    """A program file or module that cannot be used."""

    code = "bad-program"


class HostLost(RegrowError):
    """What this process was exists only in a program that is gone."""

    code = "host-lost"


class ProcessGone(BaseException):
    """Raised by every operation of a process that is leaving memory: its `finally` blocks reach nobody."""


class ContinueAsNew(BaseException):
    """Raised by `continue_as_new` to leave the body.

    Attributes:
        args_raw: JSON of the next incarnation's arguments.
    """

    def __init__(self, args_raw: Raw) -> None:
        super().__init__("this incarnation ends, and the next one begins")
        self.args_raw = args_raw


_BY_CODE: dict[str, type[RegrowError]] = {
    cls.code: cls
    for cls in (EndpointNotFound, Forked, InvalidArguments, Overloaded, ProcessEnded, ProcessNotFound, NotSendable)
}


def define(cls: type[E]) -> type[E]:
    """Decorator: failures with the code of `cls` are raised as it."""
    _BY_CODE[cls.code] = cls
    return cls


_NEVER_MERGED = (Exception, StopIteration, StopAsyncIteration)
"""Python gives the last two a meaning in coroutines."""


@lru_cache(maxsize=256)
def _merged(base: type[RegrowError], error: str) -> type[RegrowError]:
    builtin = getattr(builtins, error, None)
    if not (isinstance(builtin, type) and issubclass(builtin, Exception)) or builtin in _NEVER_MERGED:
        return base
    try:
        merged: type[RegrowError] = type(
            base.__name__, (base, builtin), {"__module__": base.__module__, "code": base.code}
        )
        merged("")
    except TypeError:  # two C layouts that do not mix, or a class that is not made of a text
        return base
    return merged


def raised(base: type[RegrowError], failure: Failure) -> RegrowError:
    """The exception for a recorded failure; the same live and replayed."""
    known = _BY_CODE.get(failure.code)
    if known is not None:
        return known(failure.message)
    error = _merged(base, failure.error)(failure.message)
    error.__dict__["error"] = failure.error
    return error


def execution_failed(failure: Failure, pid: str) -> ExecutionFailed:
    """The exception that awaiting a failed or cancelled process raises."""
    cls = ExecutionCancelled if failure.code == "cancelled" else ExecutionFailed
    error = cls(failure.message, error=failure.error, pid=pid, retryable=failure.retryable, snapshots=failure.snapshots)
    error.recorded = failure
    return error


def failure_of(error: BaseException) -> Failure:
    """An exception as data: class, text, code; no traceback, for what is recorded must replay anywhere."""
    if isinstance(error, ExecutionFailed):
        message, retryable = error.reason, error.retryable
    else:
        message = error.message if isinstance(error, RegrowError) else _text_of(error)
        retryable = True
    code = error.code if isinstance(error, RegrowError) else "exception"
    name = type(error).__name__
    return Failure(error=name, message=sendable_text(message) or name, code=code, retryable=retryable)


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide that something failed
        return ""
    if isinstance(error, BaseExceptionGroup):
        inner = "; ".join(f"{type(e).__name__}: {_text_of(e)}" for e in error.exceptions[:5])
        return f"{text}: {inner}"
    return text


def sendable_text(text: object) -> str:
    """`text` as it may stand in a message: a str, not endless, without what UTF-8 cannot say."""
    cut = str(text)[:MAX_TEXT]
    return cut.encode("utf-8", "backslashreplace").decode()
