"""Schedules on the command line: when they are due, and what is refused."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from regrow_cli.errors import UsageError
from regrow_cli.schedules import next_runs, when_of
from regrow_protocol.schedules import Schedule

NOON = datetime(2026, 3, 28, 12, tzinfo=ZoneInfo("UTC")).timestamp()


def _next(when: str, *, zone: str = "", most: int = 3, **more: object) -> list[str]:
    schedule = Schedule(name="s", app="a", type="t", when=when, zone=zone, created=NOON - 95, **more)  # type: ignore[arg-type]
    return [f"{datetime.fromtimestamp(at, ZoneInfo('UTC')):%d %H:%M:%S}" for at in next_runs(schedule, most, NOON)]


def test_next_runs() -> None:
    """Of cron across the change to summer time, of intervals from their last run, of a moment once."""
    assert _next("0 0 9 * * *", zone="Europe/Berlin", most=2) == ["29 07:00:00", "30 07:00:00"]
    assert _next("0 0 9 * * *", most=1) == ["29 09:00:00"]
    assert _next("*/20 0 12 * * *") == ["28 12:00:20", "28 12:00:40", "29 12:00:00"]
    assert _next("@every 60s", most=2) == ["28 12:00:25", "28 12:01:25"]
    assert _next("@every 60s", most=1, last_at=NOON - 10) == ["28 12:00:50"]
    assert _next("@at 2026-03-28T18:00:00Z") == ["28 18:00:00"]
    assert _next("@at 2026-03-28T08:00:00Z") == []
    assert _next("0 0 9 * * *", paused=True) == []


@pytest.mark.parametrize(
    ("given", "when"),
    [
        (("0 0 9 * * MON-FRI", "", "", "Europe/Berlin"), "0 0 9 * * MON-FRI"),
        (("", "10m", "", ""), "@every 600s"),
        (("", "", "2026-12-24T18:00+01:00", ""), "@at 2026-12-24T17:00:00Z"),
    ],
)
def test_when(given: tuple[str, str, str, str], when: str) -> None:
    """What NATS is told."""
    assert when_of(*given) == when


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("", "", "", ""), "Say when, once"),
        (("0 0 9 * * *", "10m", "", ""), "Say when, once"),
        (("0 9 * * *", "", "", ""), "has 5 fields"),
        (("0 0 25 * * *", "", "", ""), "no cron schedule: Bad hour"),
        (("0 0 9 * * *", "", "", "Mars/Olympus"), "no time zone 'Mars/Olympus'"),
        (("", "10m", "", "Europe/Berlin"), "--tz goes with --cron"),
        (("", "soon", "", ""), "is no time span"),
        (("", "0.5s", "", ""), "too short"),
        (("", "", "tomorrow", ""), "is no time"),
    ],
)
def test_what_is_no_time_is_told(given: tuple[str, str, str, str], error: str) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match=error):
        when_of(*given)
