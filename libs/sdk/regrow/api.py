"""The functions that a process body uses. They act on the process whose body, endpoint or callback is running."""

from __future__ import annotations

import asyncio
import inspect
import uuid as _uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, NoReturn, ParamSpec, TypeVar, cast, overload

import msgspec
from regrow_protocol import subjects
from regrow_protocol.messages import Failure

from . import scope
from .definition import ProcessType
from .errors import ContinueAsNew, failure_of, sendable_text
from .handle import ProcessHandle
from .limited import limited
from .operations import StepPolicy
from .options import checked_tags

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])


def spawn(process: ProcessType[P, Any], *args: P.args, **kwargs: P.kwargs) -> ProcessHandle:
    """Start a child process and return at once.

    Where the function has no parameters of these names, they are `spawn`'s own: `machine=` (image of the child's
    `machine()`), `restart=` and `backoff=` (when and how it is started again), `tags=`, and `name=`, under which the
    child is public: NATS clients call its endpoints on `regrow.api.<name>.<endpoint>`.

    Raises:
        InvalidArguments: they do not fit the function's signature.
        NotSendable: an argument cannot travel in a message.
        InvalidName: the name is none.
    """
    if not isinstance(process, ProcessType):
        raise TypeError(f"spawn() needs a function decorated with @agent_process, not {process!r}")
    return scope.current().spawn(process, args, kwargs)


def emit(type: str, data: Any = None) -> None:  # noqa: A002 - the event's own word
    """Announce an event of this process.

    Args:
        type: its name, 1 to 128 characters.
        data: what `codec` can send.

    Raises:
        InvalidName: it is no name.
        NotSendable, ValueTooLarge: the data cannot travel.
    """
    if not isinstance(type, str):
        raise TypeError(f"emit() needs the name of an event, not {type!r}")
    subjects.token(type)
    scope.current().emit(type, data)


def bubble(handle: ProcessHandle, source: str | None = None) -> Callable[[], None]:
    """Announce every event of `handle` as an event of this process too.

    Args:
        handle: the process whose events to forward.
        source: their `source` here; an event that was bubbled before keeps the one it has (the deepest).

    Returns:
        A function that ends it.
    """
    return scope.current().bubble(handle.pid, source)


def expose(function: F) -> F:
    """Make an async function an endpoint of this process, under its own name; it runs in this process's scope."""
    name = getattr(function, "__name__", "")
    if not name or not inspect.iscoroutinefunction(function):
        raise TypeError(f"@expose needs an async function; {name or repr(function)} is not one")
    scope.current().expose(function, name)
    return function


def done(result: Any = None) -> None:
    """This process has succeeded with `result`; the first of `done` and `fail` counts. `wait` returns it."""
    scope.current().finish("done", result, None)


def fail(reason: str | BaseException, *, retryable: bool = True) -> None:
    """This process has failed; the first of `done` and `fail` counts. `wait` raises it.

    Args:
        reason: what went wrong, or the exception that tells.
        retryable: whether another try may help.
    """
    if isinstance(reason, BaseException):
        failure = msgspec.structs.replace(failure_of(reason), retryable=retryable)
    else:
        failure = Failure("ExecutionFailed", sendable_text(reason) or "ExecutionFailed", "failed", retryable)
    scope.current().finish("failed", None, failure)


async def wait() -> Any:
    """Wait until this process's outcome is decided by `done` or `fail`; return the result or raise ExecutionFailed."""
    return await scope.current().wait()


@overload
async def step(
    function: Callable[..., Coroutine[Any, Any, R]],
    /,
    *args: Any,
    retries: int = 0,
    backoff: float = 0.1,
    timeout: float | None = None,
    name: str = "",
    limit: str = "",
    **kwargs: Any,
) -> R: ...
@overload
async def step(
    function: Callable[..., R],
    /,
    *args: Any,
    retries: int = 0,
    backoff: float = 0.1,
    timeout: float | None = None,
    name: str = "",
    limit: str = "",
    **kwargs: Any,
) -> R: ...
async def step(
    function: Callable[..., Any],
    /,
    *args: Any,
    retries: int = 0,
    backoff: float = 0.1,
    timeout: float | None = None,
    name: str = "",
    limit: str = "",
    **kwargs: Any,
) -> Any:
    """Run a function with side effects outside the body; its first recorded result is the result for good.

    It runs at least once: a host that dies in between makes it run again.

    Args:
        function: sync (runs in a thread) or async (runs on the host's loop).
        *args: its arguments; they should be what JSON can say, for a replay compares them.
        retries: further tries after an exception.
        backoff: seconds before the first retry; doubles with each.
        timeout: seconds for one try.
        name: shown in lists and compared on replay; by default the function's.
        limit: name of a limit that it waits for a permit of first (`regrow limits set`).
        **kwargs: its keyword arguments.

    Raises:
        StepFailed: it failed for good; also an instance of the exception's class where that is a builtin one.
    """
    if inspect.iscoroutine(function):
        function.close()
        raise TypeError("step() needs a function and its arguments, as in step(fetch, url), not step(fetch(url))")
    if isinstance(function, ProcessType):
        raise TypeError(f"{function.name} is a process: await it, or spawn() it; step() is for plain functions")
    if not callable(function):
        raise TypeError(f"step() needs a function and its arguments, not {function!r}")
    if not isinstance(name, str):
        raise TypeError(f"the name of a step is a str, not {name!r}")
    if retries < 0 or backoff < 0 or (timeout is not None and timeout <= 0):
        raise ValueError(
            f"retries and backoff must not be negative, timeout must be positive: {retries=}, {backoff=}, {timeout=}"
        )
    policy = StepPolicy(retries=retries, backoff=backoff, timeout=timeout, name=name)
    if not limit:
        return await scope.current().step(function, args, kwargs, policy)
    async with limited(limit):
        return await scope.current().step(function, args, kwargs, policy)


async def receive(name: str, *, timeout: float | None = None, type: Any = Any) -> Any:  # noqa: A002 - of the data
    """Wait for the next signal of that name to this process; its data.

    Signals are kept, in their order, until somebody receives them: also while the process is parked or being restarted.

    Args:
        name: of the signal.
        timeout: seconds, then TimeoutError.
        type: that the data is rebuilt as; by default plain JSON.
    """
    if not isinstance(name, str):
        raise TypeError(f"receive() needs the name of a signal, not {name!r}")
    subjects.token(name)
    async with asyncio.timeout(timeout):
        return await scope.current().receive(name, type)


async def sleep(seconds: float) -> None:
    """Sleep durably; a process may sleep for a month and cost nothing."""
    await asyncio.sleep(seconds)


def continue_as_new(*args: Any, **kwargs: Any) -> NoReturn:
    """End this incarnation and begin the next one, with these arguments and an empty history.

    Handles, calls, watchers and signals go on to it. Children, machines and agents are this incarnation's and end with
    it. For processes that live for months: a long history takes long to fold.

    Raises:
        InvalidArguments: they do not fit the process's function.
    """
    here = scope.current()
    type_ = here.env.types[here.start.type]
    raise ContinueAsNew(type_.signature.encode(args, kwargs))


def history_length() -> int:
    """How many inputs this incarnation has had: what has to be folded to bring it back."""
    return int(scope.current().inputs_since_start)


def set_tags(**tags: str | None) -> None:
    """Set tags of this process, by which lists and queries find it; None takes one off.

    Raises:
        TypeError: a value is no text.
    """
    checked_tags({name: value for name, value in tags.items() if value is not None})
    scope.current().set_tags(tags)


def now() -> datetime:
    """The process's clock, in UTC; the same in every replay."""
    return datetime.fromtimestamp(scope.current().clock, UTC)


def uuid4() -> _uuid.UUID:
    """A random UUID; the same in every replay."""
    return _uuid.UUID(int=scope.current().random.getrandbits(128), version=4)


def random() -> float:
    """A random number in [0, 1); the same in every replay. `current_process().random` is a whole `random.Random`."""
    return scope.current().random.random()


def is_replaying() -> bool:
    """Whether this turn repeats what was done before: for what is said to people only, as logs are.

    What a body does must not depend on it, or the replay diverges.
    """
    return bool(scope.current().replaying)


class CurrentProcess:
    """The process whose body is running.

    Attributes:
        pid: its id.
        incarnation: 0 at first.
        type: name of its process type.
        parent: pid of its parent, or None for a root.
        app: name of its app.
        random: its own repeatable `random.Random`.
    """

    __slots__ = ("_scope",)

    def __init__(self, of: Any) -> None:
        self._scope = of

    def __repr__(self) -> str:
        return f"CurrentProcess({self.pid!r})"

    @property
    def pid(self) -> str:
        return cast("str", self._scope.pid)

    @property
    def incarnation(self) -> int:
        return cast("int", self._scope.incarnation)

    @property
    def type(self) -> str:
        return cast("str", self._scope.start.type)

    @property
    def parent(self) -> str | None:
        parent = self._scope.start.parent
        return parent.pid if parent else None

    @property
    def app(self) -> str:
        return cast("str", self._scope.env.app)

    @property
    def random(self) -> Any:
        return self._scope.random

    @property
    def handle(self) -> ProcessHandle:
        """A handle of this process, to be given to others."""
        return ProcessHandle(self.pid)


def current_process() -> CurrentProcess:
    """The process whose body, endpoint or callback is running."""
    return CurrentProcess(scope.current())
