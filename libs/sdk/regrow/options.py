"""What `@agent_process` can be told about a process type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict

from regrow_protocol import subjects
from regrow_protocol.images import AnyImage, encode_image

from .supervision.policy import DEFAULT_BACKOFF, Backoff, RestartPolicy, checked_policy

Resume = Literal["replay", "restart"]

_POSITIVE = ("timeout", "deadline", "stall_after")
_COUNTS = ("max_restarts", "max_children", "max_pending_calls", "max_inbox")


class ProcessOptions(TypedDict, total=False):
    """The keyword arguments of `@agent_process`; `Options` says what they mean."""

    name: str | None
    timeout: float | None
    deadline: float | None
    stall_after: float | None
    resume: Resume
    max_restarts: int | None
    restart: RestartPolicy
    backoff: Backoff
    snapshot_on_failure: bool
    max_children: int | None
    max_pending_calls: int | None
    max_inbox: int | None
    trap_exits: bool
    limits: Sequence[str]
    priority: int
    tags: Mapping[str, str]
    public: bool
    image: AnyImage | None


def checked_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags themselves; raises TypeError where a name or value is no text."""
    for name, value in tags.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"a tag is a text, not {value!r} ({name})")
    return dict(tags)


@dataclass(frozen=True)
class Options:
    """Of a process type.

    Attributes:
        name: of the type, unique in its program; by default the function's.
        timeout: seconds that one incarnation may take; then it fails with "timed out".
        deadline: seconds that the whole run may take, restarts included; then it fails for good.
        stall_after: seconds without progress (no input, no turn of its agents) after which it announces `stalled`.
        resume: how it goes on after its host died. `replay`: the body is deterministic and continues where it was.
            `restart`: the body may do any I/O and is started again from its arguments.
        max_restarts: how often a `restart` body is started again after its host died; None for no limit, 0 for never.
        restart: whether a root is started again when it has ended. A child's parent decides that: `spawn(…, restart=)`.
        backoff: how long that waits.
        snapshot_on_failure: when it fails, the state of its machines is kept first, and `failed` tells the snapshots.
        max_children: that may run at once; another `spawn` raises Overloaded.
        max_pending_calls: calls that may be under way at once; another one is answered Overloaded.
        max_inbox: calls and signals that may wait to be taken; another one is answered Overloaded, or dropped.
        trap_exits: the end of a linked process is a signal `exit` to it, and not its own end.
        limits: names of limits that it waits for a permit of before it begins (`regrow limits set`).
        priority: of that wait: who has the higher one comes first.
        tags: that its processes begin with, to be found by.
        public: clients outside the app may call its endpoints (`regrow.api.<name>.<endpoint>`), by the process's name,
            or else the type's.
        image: what its agents and machines are made from where they name none, and `spawn(…, machine=)` does not.
    """

    name: str = ""
    timeout: float | None = None
    deadline: float | None = None
    stall_after: float | None = None
    resume: Resume = "replay"
    max_restarts: int | None = None
    restart: RestartPolicy = "temporary"
    backoff: Backoff = DEFAULT_BACKOFF
    snapshot_on_failure: bool = False
    max_children: int | None = None
    max_pending_calls: int | None = None
    max_inbox: int | None = None
    trap_exits: bool = False
    limits: Sequence[str] = ()
    priority: int = 0
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    public: bool = False
    image: AnyImage | None = None

    def __post_init__(self) -> None:
        if self.image is not None:
            encode_image(self.image)
        if self.resume not in ("replay", "restart"):
            raise ValueError(f'resume must be "replay" or "restart", not {self.resume!r}')
        checked_policy(self.restart)
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive seconds, not {value!r}")
        checked_tags(self.tags)
        if isinstance(self.limits, str):
            raise TypeError(f"limits is a list of names, not {self.limits!r}")
        for limit in self.limits:
            subjects.token(limit)
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative: {value!r}")

    @classmethod
    def of(cls, given: Mapping[str, Any], name: str) -> Options:
        """From keyword arguments; `name` is the function's. Raises TypeError for one that there is not."""
        known = {each.name for each in fields(cls)}
        if unknown := sorted(given.keys() - known):
            raise TypeError(f"@agent_process has no option {unknown[0]!r}; it has: {', '.join(sorted(known))}")
        options: dict[str, Any] = {**given, "name": given.get("name") or name}
        return cls(**options)
