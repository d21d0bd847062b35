"""What a benchmark gives: figures, with the targets they aim at and their ratio to the raw publish rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct, field

Kind = Literal["latency", "rate", "time", "size", "memory", "factor"]
"""See `UNITS`; all but `rate` are better when they are small."""

UNITS: dict[Kind, str] = {
    "latency": "ms",
    "rate": "/s",
    "time": "s",
    "size": "bytes",
    "memory": "MiB",
    "factor": "times",
}

TARGETS: dict[str, dict[str, float]] = {
    "call, alone, p50": {"safe": 1.0, "fast": 0.6},
    "call, alone, p99": {"safe": 3.0},
    "calls, 64 callers": {"safe": 8000, "fast": 8000},
    "steps, one after the other": {"safe": 1500, "fast": 3000},
    "children, 1,000 at once": {"safe": 2500, "fast": 2500},
    "replay of steps": {"safe": 15000, "fast": 15000},
    "replay of calls": {"safe": 15000, "fast": 15000},
    "take-over, empty store, announced": {"safe": 2.0, "fast": 2.0},
    "take-over, empty store, NATS killed too": {"safe": 2.0, "fast": 2.0},
    "take-over, 500,000 messages, announced": {"safe": 2.0, "fast": 2.0},
    "take-over, 500,000 messages, NATS killed too": {"safe": 2.0, "fast": 2.0},
    **{
        f"rebalance, {way}": {"safe": 5.0, "fast": 5.0}
        for way in ("host added", "SIGTERM", "kill -9, announced", "kill -9, by TTL")
    },
    "memory of 10,000 parked": {"safe": 100, "fast": 100},
    **{
        f"{backend}: exec from a {caller}, added": {"safe": 5.0, "fast": 5.0}
        for backend in ("local", "ssh", "docker")
        for caller in ("body", "client")
    },
    "docker: create, warm": {"safe": 100, "fast": 100},
}
"""By figure and durability; see the figures table in docs/benchmarks.md."""


class Figure(Struct):
    """One line of the table.

    Attributes:
        name: what was measured.
        kind: of the value, see `Kind`.
        value: the median of its rounds, in the kind's unit.
        rounds: every round's value.
        operations: that one round made, for the ratio of `time` figures.
        ratio: to the raw publish rate or latency of the same run, or to `base`; 0 until it is known.
        base: what the figure is compared with instead of raw publishes, in its own unit; 0: with those.
        others: cores that other programs used meanwhile; where that is much, the value says little.
        cost: per operation: CPU milliseconds by program, messages and bytes of stream.
        durability: it was measured under.
    """

    name: str
    kind: Kind
    value: float
    rounds: list[float] = field(default_factory=list)
    operations: int = 0
    ratio: float = 0.0
    base: float = 0.0
    others: float = 0.0
    cost: dict[str, float] = field(default_factory=dict)
    durability: str = ""

    @property
    def target(self) -> float | None:
        """What it aims at, if anything."""
        return TARGETS.get(self.name, {}).get(self.durability)

    @property
    def reached(self) -> bool | None:
        """Whether it does; None without a target."""
        if self.target is None:
            return None
        return self.value >= self.target if self.kind == "rate" else self.value <= self.target


class Base(Struct):
    """The raw publishes of the same run.

    Attributes:
        latency: ms of one alone.
        rate: messages/s when pipelined.
        size: bytes of stream of one.
    """

    latency: float
    rate: float
    size: float


def median(values: Sequence[float]) -> float:
    """The middle one (the lower of two)."""
    return sorted(values)[(len(values) - 1) // 2]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def of_rounds(
    name: str,
    kind: Kind,
    rounds: list[float],
    operations: int = 0,
    *,
    others: float = 0.0,
    cost: dict[str, float] | None = None,
) -> Figure:
    """A figure of several rounds."""
    return Figure(name, kind, median(rounds), rounds, operations, others=others, cost=cost or {})


def relate(figures: list[Figure], base: Base) -> None:
    """Fill in the ratios."""
    for figure in figures:
        if figure.base:
            figure.ratio = figure.value / figure.base
        elif figure.kind == "latency":
            figure.ratio = figure.value / base.latency
        elif figure.kind == "rate":
            figure.ratio = figure.value / base.rate
        elif figure.kind == "time" and figure.value:
            figure.ratio = figure.operations / figure.value / base.rate
        elif figure.kind == "size":
            figure.ratio = figure.value / base.size


def as_text(figure: Figure) -> tuple[str, ...]:
    """The cells of its line, as in `HEADINGS`."""
    verdict = {None: "", True: "yes", False: "NO"}[figure.reached]
    return (
        figure.durability,
        figure.name,
        number(figure.value),
        UNITS[figure.kind],
        f"{figure.ratio:.2f}" if figure.ratio else "",
        "" if figure.target is None else number(figure.target),
        verdict,
        f"{figure.others:.1f}" if figure.others >= 0.05 else "",
        "  ".join(f"{name} {number(value)}" for name, value in figure.cost.items() if value),
    )


HEADINGS = ("", "figure", "value", "unit", "ratio", "target", "met", "others", "cost per operation (CPU in ms)")


def table(figures: list[Figure]) -> str:
    """The figures as a table."""
    rows = [HEADINGS, *map(as_text, figures)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADINGS))]
    right = {2, 4, 5, 7}
    lines = [
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * min(150, sum(widths) + 2 * len(widths)), *lines[1:]])


def number(value: float) -> str:
    """With as many digits as say something."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def as_json(figures: list[Figure], about: dict[str, Any]) -> dict[str, Any]:
    """What goes into the results' file."""
    lines = [
        {
            "durability": f.durability, "name": f.name, "kind": f.kind, "unit": UNITS[f.kind], "value": f.value,
            "ratio": f.ratio, "target": f.target, "reached": f.reached, "rounds": f.rounds, "others": f.others,
            "cost": f.cost,
        }
        for f in figures
    ]  # fmt: skip
    return {**about, "figures": lines}
