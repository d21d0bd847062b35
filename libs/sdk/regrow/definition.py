"""`@agent_process`: turns a module-level async function into a process type."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

from msgspec import Raw
from regrow_protocol.images import Image, encode_image

from . import scope
from .codec import Signature
from .errors import ProgramError
from .supervision.policy import DEFAULT_BACKOFF, Backoff, RestartPolicy, checked_policy

P = ParamSpec("P")
R = TypeVar("R")
Resume = Literal["replay", "restart"]

REGISTRY: dict[str, list[ProcessType[Any, Any]]] = {}
"""Process types by name, in the order of their definition; several programs in one interpreter may share a name."""


@dataclass(frozen=True)
class Bound:
    """What a `spawn` was given.

    Attributes:
        args: JSON object of the function's arguments.
        image: of `machine=`.
        restart: when the child is started again.
        backoff: how long that waits.
    """

    args: Raw
    image: Image | None = None
    restart: RestartPolicy = "temporary"
    backoff: Backoff = DEFAULT_BACKOFF


class ProcessType(Generic[P, R]):
    """A process type. Call it inside a process to run a child and get its result; outside, to run it as a root.

    Attributes:
        name: of the type, unique in its program.
        function: the body.
        timeout: seconds that one incarnation may take, or None.
        resume: `replay` or `restart`.
        max_restarts: of a `restart` body after its host died; None for no limit.
        snapshot_on_failure: when it fails, the state of its machines is kept first.
    """

    def __init__(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        *,
        name: str | None = None,
        timeout: float | None = None,
        resume: Resume = "replay",
        max_restarts: int | None = None,
        snapshot_on_failure: bool = False,
    ) -> None:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"@agent_process needs an async function; {function.__qualname__} is not one")
        if "<locals>" in function.__qualname__:
            raise ProgramError(
                f"@agent_process needs a module-level function; {function.__qualname__} is defined inside another",
                hint="move it to the top of the module: another host must be able to find it by name",
            )
        if resume not in ("replay", "restart"):
            raise ValueError(f'resume must be "replay" or "restart", not {resume!r}')
        if timeout is not None and timeout <= 0:
            raise ValueError(f"timeout must be positive seconds, not {timeout!r}")
        self.function = function
        self.name = name or function.__qualname__
        self.timeout = timeout
        self.resume: Resume = resume
        self.max_restarts = max_restarts
        self.snapshot_on_failure = snapshot_on_failure
        functools.update_wrapper(self, function)
        REGISTRY.setdefault(self.name, []).append(self)

    @functools.cached_property
    def signature(self) -> Signature:
        """Its parameters and result as they travel."""
        return Signature(self.function, f"{self.name}()")

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bound:
        """Arguments as they travel, apart from those of `spawn` itself, which are no parameters of the function.

        Raises:
            InvalidArguments, NotSendable, InvalidImage, ValueError: they do not fit, or cannot travel.
        """
        own = [name for name in ("machine", "restart", "backoff") if name in kwargs and not self.signature.takes(name)]
        if not own:
            return Bound(self.signature.encode(args, kwargs))
        kwargs = dict(kwargs)
        given = {name: kwargs.pop(name) for name in own}
        if "machine" in given:
            given["image"] = encode_image(given.pop("machine"))
        if "restart" in given:
            checked_policy(given["restart"])
        return Bound(self.signature.encode(args, kwargs), **given)

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


@overload
def agent_process(function: Callable[P, Coroutine[Any, Any, R]], /) -> ProcessType[P, R]: ...
@overload
def agent_process(
    *,
    timeout: float | None = None,
    resume: Resume = "replay",
    name: str | None = None,
    max_restarts: int | None = None,
    snapshot_on_failure: bool = False,
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], ProcessType[P, R]]: ...
def agent_process(
    function: Callable[..., Coroutine[Any, Any, Any]] | None = None,
    /,
    *,
    timeout: float | None = None,
    resume: Resume = "replay",
    name: str | None = None,
    max_restarts: int | None = None,
    snapshot_on_failure: bool = False,
) -> Any:
    """Make a module-level async function a process type.

    Args:
        timeout: seconds that one incarnation may take; then it fails with "timed out".
        resume: how it goes on after its host died. `replay`: the body is deterministic and continues where it was.
            `restart`: the body may do any I/O and is started again from its arguments.
        name: of the type; by default the function's name.
        max_restarts: how often a `restart` body is started again; None for no limit, 0 for never.
        snapshot_on_failure: when it fails, the state of its machines is kept first, and `failed` tells the snapshots.
    """

    def decorate(target: Callable[..., Coroutine[Any, Any, Any]]) -> ProcessType[Any, Any]:
        return ProcessType(
            target,
            name=name,
            timeout=timeout,
            resume=resume,
            max_restarts=max_restarts,
            snapshot_on_failure=snapshot_on_failure,
        )

    return decorate(function) if function is not None else decorate
