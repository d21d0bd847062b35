"""`@agent_process`: turns a module-level async function into a process type."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, Unpack, overload

from msgspec import Raw, Struct
from regrow_protocol import subjects
from regrow_protocol.images import Image, encode_image
from regrow_protocol.messages import Start

from . import scope
from .codec import Signature, to_raw
from .errors import ProgramError
from .options import Options, ProcessOptions, checked_tags
from .supervision.policy import DEFAULT_BACKOFF, Backoff, RestartPolicy, checked_policy

P = ParamSpec("P")
R = TypeVar("R")

_OF_SPAWN = ("machine", "restart", "backoff", "name", "tags")
"""Keywords that are `spawn`'s own where the function has no such parameter."""

REGISTRY: dict[str, list[ProcessType[Any, Any]]] = {}
"""Process types by name, in the order of their definition; several programs in one interpreter may share a name."""


class Bound(Struct, omit_defaults=True, kw_only=True):
    """What a `spawn` was given.

    Attributes:
        args: JSON object of the function's arguments.
        machine: image of its `machine()`.
        restart: when the child is started again.
        backoff: how long that waits.
        name: under which the child is public; empty: by what its type says.
        tags: on top of those of its type.
    """

    args: Raw
    machine: Image | None = None
    restart: RestartPolicy = "temporary"
    backoff: Backoff = DEFAULT_BACKOFF
    name: str = ""
    tags: dict[str, str] = {}


class ProcessType(Generic[P, R]):
    """A process type. Call it inside a process to run a child and get its result; outside, to run it as a root.

    Args:
        nested: no other interpreter has it (`nested`), so it is not found by its name.

    Attributes:
        name: of the type, unique in its program.
        function: the body.
        options: what `@agent_process` was told.
    """

    def __init__(
        self, function: Callable[P, Coroutine[Any, Any, R]], *, nested: bool = False, **options: Unpack[ProcessOptions]
    ) -> None:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"@agent_process needs an async function; {function.__qualname__} is not one")
        if "<locals>" in function.__qualname__ and not nested:
            raise ProgramError(
                f"@agent_process needs a module-level function; {function.__qualname__} is defined inside another",
                hint="move it to the top of the module: another host must be able to find it by name",
            )
        self.options = Options.of(options, function.__qualname__)
        self.name = self.options.name
        self.function = function
        functools.update_wrapper(self, function)
        if not nested:
            REGISTRY.setdefault(self.name, []).append(self)

    @functools.cached_property
    def signature(self) -> Signature:
        """Its parameters and result as they travel."""
        return Signature(self.function, f"{self.name}()")

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bound:
        """Arguments as they travel, apart from those of `spawn` itself, which are no parameters of the function.

        Raises:
            InvalidArguments, NotSendable, InvalidImage, InvalidName, ValueError, TypeError: they do not fit, or cannot
                travel.
        """
        own = [name for name in _OF_SPAWN if name in kwargs and not self.signature.takes(name)]
        if not own:
            return Bound(args=self.signature.encode(args, kwargs))
        kwargs = dict(kwargs)
        given = {name: kwargs.pop(name) for name in own}
        if "machine" in given:
            given["machine"] = encode_image(given["machine"])
        if "restart" in given:
            checked_policy(given["restart"])
        if "tags" in given:
            given["tags"] = checked_tags(given["tags"])
        if "name" in given:
            if not isinstance(given["name"], str):
                raise TypeError(f"the name of a process is a str, not {given['name']!r}")
            subjects.token(given["name"])
        return Bound(args=self.signature.encode(args, kwargs), **given)

    async def perform(self, raw: Raw) -> Raw:
        """Run the body as an ordinary coroutine, in the scope that is current: its result as it travels."""
        args, kwargs = self.signature.decode(raw)
        function: Callable[..., Coroutine[Any, Any, R]] = self.function
        return to_raw(await function(*args, **kwargs), f"The result of {self.name}()")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        return self._run(args, kwargs)

    async def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        inside = scope.find()
        if inside is not None:
            return await inside.run_child(self, args, kwargs)
        from .runtime import run_root

        return await run_root(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<process type {self.name}>"


def image_of(start: Start, type_: ProcessType[Any, Any] | None) -> Image | None:
    """What a process's machines are made from where it names nothing: what its start says, or else its type."""
    if start.machine is not None or type_ is None or type_.options.image is None:
        return start.machine
    return encode_image(type_.options.image)


@overload
def agent_process(function: Callable[P, Coroutine[Any, Any, R]], /) -> ProcessType[P, R]: ...
@overload
def agent_process(
    **options: Unpack[ProcessOptions],
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], ProcessType[P, R]]: ...
def agent_process(
    function: Callable[..., Coroutine[Any, Any, Any]] | None = None, /, **options: Unpack[ProcessOptions]
) -> Any:
    """Make a module-level async function a process type.

    Args:
        function: the body.
        **options: see `Options`: `name=`, `timeout=`, `deadline=`, `stall_after=`, `resume=`, `max_restarts=`,
            `snapshot_on_failure=`, `max_children=`, `max_pending_calls=`, `max_inbox=`, `trap_exits=`,
            `limits=`, `priority=`, `tags=`,
            `public=`, `image=`.
    """
    if function is not None:
        return ProcessType(function, **options)

    def decorate(target: Callable[..., Coroutine[Any, Any, Any]]) -> ProcessType[Any, Any]:
        return ProcessType(target, **options)

    return decorate
