"""`@agent_process` as ramure has it, and what its bodies call.

A process is one with `resume="restart"`: its body is an ordinary coroutine. Called outside all processes it runs in
this interpreter (`session`), and so do its children; what they hand to each other are the objects themselves (`local`).
`done` and `fail` decide what `wait` returns or raises; how the process ends is for its body to say, by what it returns
or raises.
"""

from __future__ import annotations

import asyncio
import functools
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, overload

from msgspec import Raw
from regrow_protocol.errors import ValueTooLarge

from .. import definition, nested, scope
from ..api import expose as _expose
from ..definition import Bound, ProcessType
from ..errors import HostLost, NotSendable
from ..host.bodies import BodyScope
from . import local as locals_
from . import session
from .agent import end_agents
from .handle import ProcessHandle, outcome_of, settle
from .local import Local
from .machines.base import Machine
from .machines.local import LocalImage
from .machines.making import make, stop_all, travelling
from .runtime import Runtime
from .types import ExecutionFailed

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])

_KEPT = Raw(b'{"$kept":true}')
"""Recorded in place of arguments that JSON cannot say: they are objects of the program that gave them."""


class NestedProcessWarning(UserWarning):
    """A process that only the interpreter has where it was defined: it cannot survive its program."""


class RamureProcess(ProcessType[P, R]):
    """A process type of this program.

    Attributes:
        image: that its machines are made from; None: what its caller's are made from.
        limit: seconds that its body may take, or None.
        log_dir: where a root logs.
    """

    def __init__(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        *,
        image: Any = None,
        timeout: float | None = None,
        log_dir: Path | str | None = None,
    ) -> None:
        inside = nested.MARK in getattr(function, "__qualname__", "")
        name = nested.name_for(function.__qualname__) if inside else _free_name(function)
        super().__init__(function, nested=inside, name=name, resume="restart", max_restarts=0 if inside else None)
        self.image = image
        self.limit = timeout
        self.log_dir = log_dir
        if inside:
            nested.here[name] = self

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bound:
        """Arguments as they are recorded; raises InvalidArguments when they do not fit."""
        caller = locals_.find()
        machine = travelling(self.image or (caller.image if caller is not None else None) or LocalImage())
        try:
            return Bound(args=self.signature.encode(args, kwargs), machine=machine)
        except (NotSendable, ValueTooLarge):
            return Bound(args=_KEPT, machine=machine)

    async def perform(self, raw: Raw) -> Raw:
        """Run the body with the arguments that it was given, or those of its record."""
        here = scope.current()
        local = locals_.of(here.pid)
        if local is None:
            runtime = Runtime(here.start.root or here.pid, log_dir=self.log_dir)
            local = Local(here.pid, self, runtime, self.image or here.given_image or LocalImage())
        local.begin(here)
        try:
            value = await self._body(local, raw)
        except asyncio.CancelledError as error:
            if not here.abandoned:
                local.end("cancelled", error)
            raise
        except BaseException as error:
            local.end("failed", error)
            raise
        else:
            local.end("done", value)
        finally:
            try:
                await end_agents(local)
            finally:
                await stop_all(local)
        return locals_.recorded(value)

    async def _body(self, local: Local, raw: Raw) -> R:
        if local.given is not None:
            args, kwargs = local.given
        elif bytes(raw) == bytes(_KEPT):
            raise HostLost(
                f"The arguments of {self.name}() were objects of a program that is gone",
                hint="what shall survive its program is given what JSON can say",
            )
        else:
            decoded, kwargs = self.signature.decode(raw)
            args = tuple(decoded)
        local.context.run(scope.ambient.set, local.scope)
        body = asyncio.get_running_loop().create_task(
            _kept_in(self.function(*args, **kwargs)), context=local.context, name=f"body {local.pid}"
        )
        asyncio.get_running_loop().call_soon(local.begun.set)  # after its first turn, in which it exposes what it will
        async with asyncio.timeout(self.limit):
            value, exit_ = await body
        if exit_ is not None:
            raise exit_
        return value

    async def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        inside = scope.find()
        if inside is None:
            return await _run_root(begin_root(self, args, kwargs), self)
        if not isinstance(inside, BodyScope):
            return await super()._run(args, kwargs)
        handle = start_child(inside, self, args, kwargs)
        try:
            return await handle.result()
        except asyncio.CancelledError:
            handle.cancel()
            raise


async def _kept_in(body: Coroutine[Any, Any, R]) -> tuple[R, None] | tuple[Any, BaseException]:
    """What a body returns, or with what it would end the program: a task that raises that ends the event loop at once,
    with all that it has not said yet. It is the root's caller who gets it."""
    try:
        return await body, None
    except (SystemExit, KeyboardInterrupt) as error:
        return None, error


def _free_name(function: Callable[..., Any]) -> str:
    """The function's name; with its module's where another module has a process of that name."""
    name = function.__qualname__
    others = {t.function.__module__ for t in definition.REGISTRY.get(name, ())} - {function.__module__}
    return f"{function.__module__}.{name}" if others else name


@overload
def agent_process(fn: Callable[P, Coroutine[Any, Any, R]], /) -> RamureProcess[P, R]: ...
@overload
def agent_process(
    *,
    image: Any = None,
    timeout: float | None = None,
    log_dir: Path | str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    base_url: str | None = None,
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], RamureProcess[P, R]]: ...
def agent_process(
    fn: Callable[..., Coroutine[Any, Any, Any]] | None = None,
    /,
    *,
    image: Any = None,
    timeout: float | None = None,
    log_dir: Path | str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    base_url: str | None = None,
) -> Any:
    """Make an async function a process.

    Args:
        fn: the function; one inside another function works too, but ends with `host_lost` when its program dies.
        image: that its machines, and those of its children, are made from; by default the caller's, or `LocalImage()`.
        timeout: seconds that it may take; then its body is cancelled, and it fails with TimeoutError.
        log_dir: where a root writes its log: `<log_dir>/<pid>/_runtime.jsonl`.
        host, port, base_url: where ramure's own server would be reached. Agents reach the agent-gateway, whose settings
            say where that is (`REGROW_GATEWAY_*`); a value here is told in a warning, and changes nothing.
    """
    if host != "127.0.0.1" or port or base_url:
        warnings.warn(
            "host=, port= and base_url= change nothing: agents reach the agent-gateway where its settings say",
            UserWarning,
            stacklevel=2,
        )

    def decorate(function: Callable[..., Coroutine[Any, Any, Any]]) -> RamureProcess[Any, Any]:
        made = RamureProcess[Any, Any](function, image=image, timeout=timeout, log_dir=log_dir)
        if made.name in nested.here:
            warnings.warn(
                f"{function.__qualname__} is a function inside another one: no other host can find it, so this process "
                "ends with host_lost when its program dies",
                NestedProcessWarning,
                stacklevel=2 if fn is None else 3,
            )
        return made

    return decorate(fn) if fn is not None else decorate


# Starting -------------------------------------------------------------------------------------------------------------


def start_child(
    inside: BodyScope, type_: ProcessType[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ProcessHandle:
    """Start a child of the process whose scope is `inside`."""
    parent = locals_.of(inside.pid)
    bound = inside.spawn(type_, args, kwargs)
    if parent is None or not isinstance(type_, RamureProcess):
        return ProcessHandle(bound.pid)
    made = Local(bound.pid, type_, parent.runtime, type_.image or parent.image, (args, kwargs))
    inside.when_ended(bound.pid, functools.partial(settle, made))
    return ProcessHandle(bound.pid, made)


def begin_root(type_: RamureProcess[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Local:
    """What a root is before it runs."""
    pid = session.new_pid()
    runtime = Runtime(pid, log_dir=type_.log_dir)
    root = runtime.root_scope = Local(pid, type_, runtime, type_.image or LocalImage(), (args, kwargs))
    return root


async def _run_root(root: Local, type_: RamureProcess[Any, Any]) -> Any:
    assert root.given is not None
    bound = type_.bind(*root.given)
    try:
        async with session.Use(type_) as used:
            process = await used.start(root.pid, type_, bound)
            waiting = asyncio.ensure_future(used.result(process))
            try:
                await asyncio.wait([waiting])
            except asyncio.CancelledError:
                await asyncio.shield(used.cancel(process))
                waiting.cancel()
                raise
        settle(root, waiting)
        return outcome_of(root)
    except BaseException as error:
        root.end("cancelled" if isinstance(error, asyncio.CancelledError) else "failed", error)
        raise
    finally:
        root.close()
        root.runtime.close()


_background: set[asyncio.Future[Any]] = set()
"""Roots that were spawned outside all processes."""


def _let_go(task: asyncio.Future[Any]) -> None:
    _background.discard(task)
    if not task.cancelled():
        task.exception()  # it is in its events, for whoever wants to know


def spawn(fn: Callable[P, Coroutine[Any, Any, Any]], *args: P.args, **kwargs: P.kwargs) -> ProcessHandle:
    """Run a process in the background and return its handle at once."""
    if not isinstance(fn, ProcessType):
        raise TypeError(f"spawn() needs a function decorated with @agent_process, not {fn!r}")
    inside = scope.find()
    if inside is None:
        if not isinstance(fn, RamureProcess):
            raise TypeError(f"{fn.name} is a process of regrow, which can be spawned inside a process only")
        root = begin_root(fn, args, kwargs)
        task = asyncio.ensure_future(_run_root(root, fn))
        _background.add(task)
        task.add_done_callback(_let_go)
        return ProcessHandle(root.pid, root, task)
    if isinstance(inside, BodyScope):
        return start_child(inside, fn, args, kwargs)
    return ProcessHandle(inside.spawn(fn, args, kwargs).pid)


# Inside a body --------------------------------------------------------------------------------------------------------


def done(result: Any = None) -> None:
    """`wait` returns `result`; the first of `done` and `fail` counts."""
    here = locals_.current()
    if not here.decided.done():
        here.decided.set_result(result)


def fail(reason: str) -> None:
    """`wait` raises ExecutionFailed with `reason`; the first of `done` and `fail` counts."""
    here = locals_.current()
    if not here.decided.done():
        here.decided.set_exception(ExecutionFailed(reason))


async def wait() -> Any:
    """Wait until `done` or `fail` was called in this process; its result, or ExecutionFailed."""
    return await asyncio.shield(locals_.current().decided)


def emit(event_type: str, data: Any = None) -> None:
    """Announce an event of this process."""
    locals_.current().emit(event_type, data)


def bubble(handle: ProcessHandle, *, source: str | None = None) -> Callable[[], None]:
    """Announce every event of `handle` as an event of this process too.

    Args:
        handle: the process whose events to forward.
        source: their `source` here; an event that was bubbled before keeps the one it has (the deepest).

    Returns:
        What ends it; may be called more than once.
    """
    here = locals_.current()
    return handle.events.subscribe(lambda event: here.emit(event.type, event.data, event.source or source))


def expose(fn: F) -> F:
    """Make an async function an endpoint of this process, under its own name; it runs in this process's scope."""
    here = locals_.current()
    _expose(fn)
    here.endpoints[fn.__name__] = fn
    return fn


def current_runtime() -> Runtime:
    """The run that this process belongs to."""
    return locals_.current().runtime


async def machine(image: Any = None) -> Machine:
    """Make a machine; it is stopped when this process ends.

    Args:
        image: by default that of this process: LocalImage, MorphImage and the like, or any object with
            `async spawn() -> Machine`.
    """
    here = locals_.current()
    return await make(here, image or here.image)
