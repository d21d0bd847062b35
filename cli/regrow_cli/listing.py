"""How lists are shown: tables for people, JSON for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

STYLES = {
    "running": "cyan",
    "no-host": "magenta",
    "stuck": "bold red",
    "done": "green",
    "failed": "red",
    "cancelled": "yellow",
    "lost": "red",
    "ended": "yellow",
    "ready": "cyan",
    "no-manager": "magenta",
    "stopped": "yellow",
}
"""Colour of a status."""
WIDE = 400


def print_json(value: Any) -> None:
    """Any value of ours as indented JSON on standard output."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_result(raw: bytes | msgspec.Raw) -> None:
    """A result's JSON: indented on a terminal, one line otherwise."""
    print(msgspec.json.format(bytes(raw), indent=2 if sys.stdout.isatty() else -1).decode())


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """A table on standard output; with no rows the line `empty` on standard error.

    Cells that are a status are coloured on a terminal; elsewhere there are no colours, and lines are not cut.
    """
    if not rows:
        print(empty, file=sys.stderr)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=WIDE, color_system=None)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, no_wrap=header in ("PID", "ID", "STATUS", "STATE", "AGE"), overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell, STYLES.get(cell, "")) for cell in row])
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())


def duration(seconds: float) -> str:
    """A time span in its two largest units: `4.2s`, `3m05s`, `2h10m`, `5d03h`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    whole = int(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02d}{smaller}"
    return f"{whole}s"


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in few characters: `0-3,7`."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def clock(at: float) -> str:
    """A time of day, with the date where it is not today's."""
    then = time.localtime(at)
    same_day = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", then)


def short(raw: bytes | msgspec.Raw, limit: int) -> str:
    """JSON as one line of at most `limit` characters."""
    text = bytes(raw[: limit * 4 + 4]).decode(errors="replace") if isinstance(raw, bytes) else bytes(raw).decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"
