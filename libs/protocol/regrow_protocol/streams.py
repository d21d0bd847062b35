"""Streams and buckets: one table, created idempotently by whoever needs them first.

`ensure` may run in many programs at once. What exists is left alone when it fits, updated when it differs in what may
be updated. Configurations are sent as JSON: nats-py does not know every field.

Buckets that decide something have no `allow_direct`: a follower's answer may be stale.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from . import subjects
from .bus.wire import ApiError, as_json

if TYPE_CHECKING:
    from .bus import Bus

NANO = 1_000_000_000
DUPLICATE_WINDOW = 120.0
MARKER_TTL = 60.0
"""Seconds that the mark of an expired key stays, for watchers who are away."""

EVENTS, AGENTS, CALLS, COMMANDS, REPLIES, DEAD = (
    "REGROW_EVENTS",
    "REGROW_AGENTS",
    "REGROW_CALLS",
    "REGROW_COMMANDS",
    "REGROW_REPLIES",
    "REGROW_DEAD",
)
VALUES = "regrow_values"

_NOT_FOUND = 10059
_IN_USE = 10058


def inbox_stream(app: str) -> str:
    """Name of the stream that holds the inboxes and timers of an app."""
    return f"REGROW_INBOX_{subjects.token(app)}"


@dataclass(frozen=True)
class StreamSpec:
    """A stream.

    Attributes:
        name, subjects: as NATS has them.
        max_age: seconds that messages stay; 0 for ever.
        duplicate_window: seconds in which a message id is recognised.
        fields: further fields of the configuration.
    """

    name: str
    subjects: tuple[str, ...]
    max_age: float = 0.0
    duplicate_window: float = DUPLICATE_WINDOW
    fields: dict[str, Any] = field(default_factory=dict)

    def config(self, replicas: int) -> dict[str, Any]:
        """The configuration as the API takes it."""
        window = min(self.duplicate_window, self.max_age) if self.max_age else self.duplicate_window
        return {
            "name": self.name,
            "subjects": list(self.subjects),
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": replicas,
            "max_age": int(self.max_age * NANO),
            "duplicate_window": int(window * NANO),
            "allow_direct": True,
            "allow_atomic": True,
            **self.fields,
        }


@dataclass(frozen=True)
class BucketSpec:
    """A key-value bucket with one revision per key and TTLs.

    Attributes:
        name: of the bucket.
        decides: writes are compare-and-set and reads must be exact: only the leader answers.
    """

    name: str
    decides: bool = True

    def stream(self) -> StreamSpec:
        """The stream it is."""
        return StreamSpec(
            name=f"KV_{self.name}",
            subjects=(f"$KV.{self.name}.>",),
            fields={
                "max_msgs_per_subject": 1,
                "discard": "new",
                "allow_rollup_hdrs": True,
                "deny_delete": True,
                "allow_msg_ttl": True,
                "subject_delete_marker_ttl": int(MARKER_TTL * NANO),
                "allow_direct": not self.decides,
            },
        )


STREAMS = (
    StreamSpec(EVENTS, ("regrow.event.>",)),
    StreamSpec(AGENTS, ("regrow.agent.>",)),
    StreamSpec(CALLS, ("regrow.called.>",), max_age=7 * 86_400.0),
    StreamSpec(COMMANDS, ("regrow.command.>",), fields={"retention": "workqueue"}),
    StreamSpec(REPLIES, ("regrow.reply.>",), max_age=600.0),
    StreamSpec(DEAD, ("regrow.dead.>",)),
    StreamSpec(
        "REGROW_SCHEDULES",
        ("regrow.schedule.>",),
        fields={"allow_msg_schedules": True, "allow_msg_ttl": True},
    ),
)

BUCKETS = (
    BucketSpec("regrow_processes", decides=False),
    BucketSpec("regrow_hosts"),
    BucketSpec("regrow_partitions"),
    BucketSpec("regrow_cursors"),
    BucketSpec("regrow_limits"),
    BucketSpec("regrow_schedules"),
    BucketSpec("regrow_commands"),
    BucketSpec("regrow_machines"),
    BucketSpec("regrow_agents"),
    BucketSpec("regrow_endpoints"),
)

VALUES_STREAM = StreamSpec(
    f"OBJ_{VALUES}",
    (f"$O.{VALUES}.C.>", f"$O.{VALUES}.M.>"),
    fields={"discard": "new", "allow_rollup_hdrs": True},
)


def inbox_spec(app: str, *, duplicate_window: float = DUPLICATE_WINDOW) -> StreamSpec:
    """The stream of an app: its inboxes, and the timers whose target they are (same stream: ADR-51 demands it)."""
    name = subjects.token(app)
    return StreamSpec(
        inbox_stream(app),
        (f"regrow.inbox.{name}.>", f"regrow.timer.{name}.>"),
        duplicate_window=duplicate_window,
        fields={"allow_msg_schedules": True, "allow_msg_ttl": True},
    )


def default_replicas() -> int:
    """What `REGROW_REPLICAS` says; 1 by default."""
    return int(os.environ.get("REGROW_REPLICAS", "1"))


async def ensure(bus: Bus, *, replicas: int | None = None) -> None:
    """All streams and buckets that do not belong to one app."""
    specs = [*STREAMS, *[bucket.stream() for bucket in BUCKETS], VALUES_STREAM]
    await ensure_specs(bus, specs, replicas=replicas)


async def ensure_app(
    bus: Bus, app: str, *, replicas: int | None = None, duplicate_window: float = DUPLICATE_WINDOW
) -> str:
    """The stream of an app; its name."""
    await ensure_specs(bus, [inbox_spec(app, duplicate_window=duplicate_window)], replicas=replicas)
    return inbox_stream(app)


async def ensure_specs(bus: Bus, specs: Iterable[StreamSpec], *, replicas: int | None = None) -> None:
    """Make each stream exist as specified. Raises `ApiError` when one exists and cannot be made to fit."""
    count = default_replicas() if replicas is None else replicas
    async with asyncio.TaskGroup() as group:
        for spec in specs:
            group.create_task(_ensure(bus, spec, count))


async def _ensure(bus: Bus, spec: StreamSpec, replicas: int) -> None:
    wanted = spec.config(replicas)
    for _ in range(5):
        try:
            answer = await bus.request(f"$JS.API.STREAM.INFO.{spec.name}")
        except ApiError as error:
            if error.err_code != _NOT_FOUND:
                raise
            try:
                await bus.request(f"$JS.API.STREAM.CREATE.{spec.name}", as_json(wanted), timeout=30.0)
            except ApiError as refused:
                if refused.err_code != _IN_USE:  # somebody else was faster, with another configuration
                    raise
                continue
            return
        present = msgspec.json.decode(answer)["config"]
        if all(present.get(name) == value for name, value in wanted.items() if value not in (0, False)) and not any(
            present.get(name) for name, value in wanted.items() if value in (0, False)
        ):
            return
        await bus.request(f"$JS.API.STREAM.UPDATE.{spec.name}", as_json({**present, **wanted}), timeout=30.0)
        return
