"""`supervise()`: a group of children that is kept running by a strategy, in the fold of whoever asked for it.

The contract is that of OTP's `supervisor`. Children are started in the order of `start` calls and stopped in the
reverse one. A child that ends is started again as its `restart` says, under the same pid as a new incarnation: alone
(`one_for_one`), with all others (`one_for_all`), or with those that were started after it (`rest_for_one`); the others
are stopped first. More than `max_restarts` of that within `within` seconds stop all of them, and the block is left with
RestartIntensityExceeded: so groups in groups escalate. One thing happens at a time: an end that comes while children
are being stopped waits its turn.

References:
    OTP, `supervisor`: strategies, intensity and period, shutdown, significant children and auto-shutdown.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, TypeAlias, get_args

from msgspec import UNSET, UnsetType
from regrow_protocol import messages as m

from .. import scope
from ..definition import ProcessType
from ..errors import InvalidArguments, NotAllowedInBody
from ..handle import ProcessHandle
from ..operations import Child
from .errors import ChildFailure, RestartIntensityExceeded, SupervisionError
from .policy import RestartPolicy, checked_policy

Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one", "simple_one_for_one"]
AutoShutdown: TypeAlias = Literal["never", "any_significant", "all_significant"]
ChildState: TypeAlias = Literal["running", "restarting", "stopped"]

SHUTDOWN = 10.0
"""Seconds that a worker has to end, where its group does not say."""


@dataclass(frozen=True)
class ChildInfo:
    """A child of a group.

    Attributes:
        id: in its group.
        handle: of its process; of one that is stopped, the last.
        type: name of its process type.
        restart: its policy.
        state: `running`, `restarting`, or `stopped` (it may be started by `restart_child`).
        kind: `worker` or `supervisor`, as it was said to be.
    """

    id: str
    handle: ProcessHandle
    type: str
    restart: RestartPolicy
    state: ChildState
    kind: str


@dataclass(frozen=True)
class ChildCounts:
    """How many children a group has.

    Attributes:
        specs: all that it knows, running or not.
        active: that run.
        supervisors, workers: by what they were said to be, running or not.
    """

    specs: int
    active: int
    supervisors: int
    workers: int


@dataclass(eq=False)
class _Managed:
    """A child as its group keeps it."""

    id: str
    type: ProcessType[Any, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    restart: RestartPolicy
    shutdown: float | None
    significant: bool
    kind: str
    handle: ProcessHandle
    child: Child
    state: Literal["running", "down", "ended"] = "running"
    stopping: bool = False
    changed: list[asyncio.Future[None]] = field(default_factory=list)

    def to(self, state: Literal["running", "down", "ended"]) -> None:
        """Its state is another one from now on."""
        self.state = state
        waiting, self.changed = self.changed, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def until_stopped(self) -> None:
        """Wait until it does not run."""
        while self.state == "running":
            future = asyncio.get_running_loop().create_future()
            self.changed.append(future)
            await future


def supervise(
    *,
    strategy: Strategy = "one_for_one",
    max_restarts: int = 3,
    within: float = 5.0,
    auto_shutdown: AutoShutdown = "never",
) -> Supervisor:
    """A group of children: `async with supervise(strategy="one_for_all") as group: group.start(worker, id="w1")`.

    The block is left when its body has ended and no child runs any more; with an exception in it, or when it is
    cancelled, all children are stopped first.

    Args:
        strategy: which children are started again when one has ended. `simple_one_for_one`: as `one_for_one`, for many
            children of one process type, which need no ids and are stopped all at once.
        max_restarts: how often that may be necessary within `within` seconds; 0: never.
        within: seconds.
        auto_shutdown: stop all when a significant child ends by itself: `any_significant`, or when the last one has.

    Raises:
        RestartIntensityExceeded: from the block: children had to be started again too often.
        ValueError: an argument is none of what it may be.
    """
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy must be one of {', '.join(get_args(Strategy))}, not {strategy!r}")
    if auto_shutdown not in get_args(AutoShutdown):
        raise ValueError(f"auto_shutdown must be one of {', '.join(get_args(AutoShutdown))}, not {auto_shutdown!r}")
    if max_restarts < 0 or not within > 0:
        raise ValueError(f"max_restarts must not be negative, within must be positive: {max_restarts=}, {within=}")
    return Supervisor(strategy, max_restarts, within, auto_shutdown)


class Supervisor:
    """A group of children; `supervise` makes it, and it is there within its `async with` block."""

    stops_in_order = True

    def __init__(self, strategy: Strategy, max_restarts: int, within: float, auto_shutdown: AutoShutdown) -> None:
        self._strategy: Strategy = strategy
        self._max_restarts, self._within = max_restarts, within
        self._auto_shutdown: AutoShutdown = auto_shutdown
        self._children: dict[str, _Managed] = {}
        self._of: dict[Child, _Managed] = {}
        self._ends: deque[tuple[_Managed, m.Child]] = deque()
        self._failures: deque[ChildFailure] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._free = asyncio.Lock()
        self._numbered = 0
        self._left = False
        self._over = False
        self._error: RestartIntensityExceeded | None = None
        self._body: asyncio.Task[Any] | None = None
        self._body_cancelled = False
        self._worker: asyncio.Task[None] | None = None
        self._process: Any = None

    # Children ---------------------------------------------------------------------------------------------------------

    def start(
        self,
        process: ProcessType[..., Any],
        *args: Any,
        id: str = "",  # noqa: A002 - OTP's word
        restart: RestartPolicy = "permanent",
        shutdown: float | UnsetType | None = UNSET,
        significant: bool = False,
        kind: Literal["worker", "supervisor"] = "worker",
        **kwargs: Any,
    ) -> ProcessHandle:
        """Start a child; its handle is good for all its incarnations.

        Args:
            process: its type.
            *args: its arguments.
            id: by which the group knows it; by default one that is made of its type's name.
            restart: `permanent`, `transient` or `temporary`.
            shutdown: seconds that it has to end when it is stopped, before it is ended by force; 0: by force at once;
                None: as long as it takes, as it should be for supervisors. By default 10, of a supervisor None.
            significant: its end may end the group (`auto_shutdown`).
            kind: whether it is a supervisor itself.
            **kwargs: its arguments.

        Raises:
            SupervisionError: the id is taken, the group is over, or the child does not fit the group.
            InvalidArguments, NotSendable: the arguments do not fit.
        """
        self._check_running()
        checked_policy(restart)
        if shutdown is UNSET:
            shutdown = None if kind == "supervisor" else SHUTDOWN
        if shutdown is not None and shutdown < 0:
            raise ValueError(f"shutdown must not be negative: {shutdown}")
        if significant and (restart == "permanent" or self._auto_shutdown == "never"):
            raise SupervisionError(
                f"The child {id or process.name} cannot be significant: it is {restart}, and auto_shutdown is "
                f"{self._auto_shutdown}",
                hint="a significant child is transient or temporary, in a group with auto_shutdown",
            )
        if self._strategy == "simple_one_for_one" and self._children:
            first = next(iter(self._children.values())).type
            if process is not first:
                raise SupervisionError(
                    f"Children of a simple_one_for_one group are of one type, here {first.name}, not {process.name}",
                    hint='use strategy="one_for_one"',
                )
        if id in self._children:
            raise SupervisionError(f"The group has a child {id!r} already", hint="delete_child() it first")
        handle, child = self._spawn(process, args, kwargs, restart)
        id_ = id or self._made_id(process)
        managed = _Managed(id_, process, args, kwargs, restart, shutdown, significant, kind, handle, child)
        self._children[id_] = self._of[child] = managed
        return handle

    def _made_id(self, process: ProcessType[..., Any]) -> str:
        while True:
            self._numbered += 1
            if (made := f"{process.name}-{self._numbered}") not in self._children:
                return made

    def _spawn(
        self, process: ProcessType[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], restart: RestartPolicy
    ) -> tuple[ProcessHandle, Child]:
        if {"restart", "backoff"} & kwargs.keys() and not process.signature.takes("restart"):
            raise InvalidArguments(f"{process.name}: a child of a group has no backoff= of its own")
        here = self._process
        handle: ProcessHandle = here.spawn(process, args, kwargs, restart=restart, keeper=self)
        return handle, here.relations.children[handle.pid]

    def which_children(self) -> list[ChildInfo]:
        """The children, in the order in which they were started."""
        return [
            ChildInfo(each.id, each.handle, each.type.name, each.restart, self._state_of(each), each.kind)
            for each in self._children.values()
        ]

    def _state_of(self, managed: _Managed) -> ChildState:
        if managed.state == "running":
            return "running"
        return "restarting" if any(waiting is managed for waiting, _ in self._ends) else "stopped"

    def _check_stopped(self, managed: _Managed) -> None:
        state = self._state_of(managed)
        if state == "running":
            raise SupervisionError(f"The child {managed.id!r} runs", hint="terminate_child() it first")
        if state == "restarting":
            raise SupervisionError(f"The child {managed.id!r} is being started again")

    def count_children(self) -> ChildCounts:
        """How many there are."""
        all_ = list(self._children.values())
        supervisors = sum(each.kind == "supervisor" for each in all_)
        active = sum(each.state == "running" for each in all_)
        return ChildCounts(len(all_), active, supervisors, len(all_) - supervisors)

    async def terminate_child(self, id: str) -> None:  # noqa: A002 - OTP's word
        """Stop a child; it stays known, and may be started by `restart_child`. A temporary one is forgotten, as is any
        of a `simple_one_for_one` group.

        Raises:
            SupervisionError: there is no such child.
        """
        async with self._free:
            managed = self._known(id)
            forget = managed.restart == "temporary" or self._strategy == "simple_one_for_one"
            await self._stop(managed, hold=not forget)
            if forget:
                self._forget(managed)
        self._stir()

    async def restart_child(self, id: str) -> ProcessHandle:  # noqa: A002 - OTP's word
        """Start a child that is stopped. One that had ended by itself begins as a new process.

        Raises:
            SupervisionError: there is no such child, or it runs.
        """
        async with self._free:
            managed = self._known(id)
            self._check_running()
            self._check_stopped(managed)
            self._start_again(managed)
        return managed.handle

    async def delete_child(self, id: str) -> None:  # noqa: A002 - OTP's word
        """Forget a child that is stopped.

        Raises:
            SupervisionError: there is no such child, or it runs.
        """
        async with self._free:
            managed = self._known(id)
            self._check_stopped(managed)
            await self._stop(managed, hold=False)
            self._forget(managed)

    def _known(self, id_: str) -> _Managed:
        managed = self._children.get(id_)
        if managed is None:
            known = ", ".join(self._children) or "none"
            raise SupervisionError(f"The group has no child {id_!r}; it has: {known}")
        return managed

    def _forget(self, managed: _Managed) -> None:
        self._children.pop(managed.id, None)
        self._of.pop(managed.child, None)

    def _check_running(self) -> None:
        if self._process is None or self._over:
            raise SupervisionError(
                "The group is not running" if self._process is None else "The group is over",
                hint="start children inside its `async with` block",
            )

    # What children tell (`Keeper`) ------------------------------------------------------------------------------------

    def went_down(self, child: Child, message: m.Child) -> None:
        """A child has ended, and may be started again."""
        managed = self._of.get(child)
        if managed is None or self._process.closing:
            return
        expected = managed.stopping
        managed.to("down")
        if not expected:
            self._note(managed, message)

    def ended(self, child: Child, message: m.Child) -> None:
        """A child has ended for good."""
        managed = self._of.get(child)
        if managed is None:
            return
        expected = managed.stopping or managed.state != "running"
        managed.to("ended")
        if not expected:
            self._note(managed, message)

    def _note(self, managed: _Managed, message: m.Child) -> None:
        self._ends.append((managed, message))
        self._stir()

    def _stir(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # One end at a time ------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while not self._over:
            while self._ends and not self._over:
                async with self._free:
                    if self._ends:
                        await self._deal_with(*self._ends.popleft())
            if self._over:
                break
            if self._left and not self._has_work():
                async with self._free:  # what was asked for before comes first
                    if not self._has_work():
                        break
                continue
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        self._over = True

    def _has_work(self) -> bool:
        return bool(self._ends) or any(each.state == "running" for each in self._children.values())

    async def _deal_with(self, managed: _Managed, message: m.Child) -> None:
        if managed.state == "ended":
            if managed.restart == "temporary" or self._strategy == "simple_one_for_one":
                self._forget(managed)
            if managed.significant and self._is_last_significant(managed):
                await self._shut_down()
                self._leave_block()
        elif managed.state == "down":
            self._count(managed, message)
            if len(self._failures) > self._max_restarts:
                await self._give_up()
            else:
                await self._restart(managed)

    def _is_last_significant(self, ended: _Managed) -> bool:
        others = [each for each in self._children.values() if each.significant and each is not ended]
        return self._auto_shutdown == "any_significant" or all(self._state_of(each) == "stopped" for each in others)

    def _count(self, managed: _Managed, message: m.Child) -> None:
        now, failure = self._process.clock, message.error
        while self._failures and self._failures[0].time < now - self._within:
            self._failures.popleft()
        self._failures.append(
            ChildFailure(
                managed.id, managed.handle.pid, message.run, message.status, failure.message if failure else "",
                failure.error if failure else "", failure.code if failure else "", now,
            )
        )  # fmt: skip

    async def _restart(self, managed: _Managed) -> None:
        group = list(self._children.values())
        if self._strategy in ("one_for_one", "simple_one_for_one"):
            group = [managed]
        elif self._strategy == "rest_for_one":
            group = group[group.index(managed) :]
        for other in reversed(group):
            if other is not managed:
                await self._stop(other, hold=other.restart != "temporary")
        for each in group:
            if each.restart == "temporary":
                self._forget(each)
            else:
                self._start_again(each)

    def _start_again(self, managed: _Managed) -> None:
        if managed.state == "down":
            self._process.relations.again(managed.child)
        else:
            del self._of[managed.child]
            managed.handle, managed.child = self._spawn(managed.type, managed.args, managed.kwargs, managed.restart)
            self._of[managed.child] = managed
        managed.to("running")

    async def _stop(self, managed: _Managed, *, hold: bool) -> None:
        relations = self._process.relations
        managed.stopping = True
        try:
            if managed.state == "down" and not hold:
                relations.take_down(managed.child)
            if managed.state == "running":
                kill = managed.shutdown == 0
                relations.take_down(managed.child, hold=hold, kill=kill)
                try:
                    async with asyncio.timeout(managed.shutdown or None):
                        await managed.until_stopped()
                except TimeoutError:
                    relations.take_down(managed.child, hold=hold, kill=True)
                    await managed.until_stopped()
        finally:
            managed.stopping = False
        self._ends = deque(each for each in self._ends if each[0] is not managed)

    async def _shut_down(self) -> None:
        """Stop all children, the last one first."""
        self._over = True
        children = list(self._children.values())
        if self._strategy == "simple_one_for_one":
            await asyncio.gather(*[self._stop(each, hold=False) for each in children])
        else:
            for each in reversed(children):
                await self._stop(each, hold=False)

    async def _give_up(self) -> None:
        failures = tuple(self._failures)
        last = failures[-1]
        why = f"{last.error}: {last.reason}" if last.error else last.status
        text = f"Children were started again more than {self._max_restarts} times within {self._within:g} s"
        self._error = RestartIntensityExceeded(f"{text}; last: {last.id} ({why})", failures=failures)
        await self._shut_down()
        self._leave_block()

    def _leave_block(self) -> None:
        """The group has ended by itself: so does whatever its block still waits for."""
        if self._body is not None and not self._left:
            self._body_cancelled = True
            self._body.cancel()

    async def stop(self) -> None:
        """Stop all children, the last one first; then the group is over."""
        if not self._over:
            async with self._free:
                await self._shut_down()
        self._stir()

    # The block --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Supervisor:
        here = scope.current()
        if not hasattr(here, "relations"):
            raise NotAllowedInBody(
                'supervise() works in processes with resume="replay", not in a restart body',
                hint="put the group into a process of its own, and spawn() that",
            )
        self._process = here
        self._body = asyncio.current_task()
        self._worker = asyncio.get_running_loop().create_task(self._work())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert self._worker is not None
        if isinstance(error, GeneratorExit):
            return False  # the process leaves memory
        gave_up = self._error is not None  # so the body's error may be that of a child which was stopped for it
        self._left = True
        self._stir()
        try:
            if error is None:
                await asyncio.shield(self._worker)
            else:
                await self.stop()
                await self._worker
        except asyncio.CancelledError:
            await self.stop()
            raise
        ours = False
        if self._body_cancelled and isinstance(error, asyncio.CancelledError) and self._body is not None:
            ours = self._body.uncancel() == 0
        theirs = isinstance(error, asyncio.CancelledError) or (gave_up and isinstance(error, Exception))
        if self._error is not None and (error is None or theirs):
            raise self._error from None
        return ours
