"""What lists say of limits: what is allowed, who holds permits, how many wait."""

from __future__ import annotations

from collections import Counter

import msgspec
from msgspec import Struct
from regrow_protocol import messages as m
from regrow_protocol.bus import Bus
from regrow_protocol.limits import BUCKET, Holder, Limit, Permits
from regrow_protocol.subjects import untoken


class LimitRow(Struct, kw_only=True):
    """A limit in a list.

    Attributes:
        concurrency, rate, period: as set; 0: any number.
        holders: who holds permits, by the permit's id.
        waiting: how many wait for one.
    """

    name: str
    concurrency: int
    rate: int
    period: float
    holders: dict[str, Holder]
    waiting: int


async def rows(bus: Bus) -> list[LimitRow]:
    """All limits, by name."""
    limits: dict[str, Limit] = {}
    permits: dict[str, Permits] = {}
    waiting: Counter[str] = Counter()
    async for entry in bus.kv(BUCKET).items(">"):
        kind, _, rest = entry.key.partition(".")
        name = untoken(rest.partition(".")[0])
        try:
            if kind == "limit":
                limits[name] = m.decode(entry.value, Limit)
            elif kind == "permits":
                permits[name] = m.decode(entry.value, Permits)
            elif kind == "wait":
                waiting[name] += 1
        except msgspec.MsgspecError:  # of another version
            continue
    return [
        LimitRow(
            name=name, concurrency=limit.concurrency, rate=limit.rate, period=limit.period,
            holders=permits.get(name, Permits()).holders, waiting=waiting[name],
        )
        for name, limit in sorted(limits.items())
    ]  # fmt: skip
