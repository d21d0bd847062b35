"""Queries for processes, and what a bulk command does with what they find."""

from __future__ import annotations

import asyncio
import time

import pytest
from regrow_cli import bulk
from regrow_cli.errors import UsageError
from regrow_cli.processes import Row
from regrow_cli.where import parse
from regrow_protocol.errors import RegrowError


def _rows() -> list[Row]:
    now = time.time()
    return [
        Row(pid="p_1", app="shop", type="worker", status="failed", name="one", started=now - 7200, ended=now - 7190,
            tags={"customer": "acme"}, error="it broke (badly)"),
        Row(pid="p_2", app="shop", type="worker", status="running", started=now - 60, tags={"customer": "other"}),
        Row(pid="p_3", app="shop", type="pool", status="done", started=now - 600, ended=now - 100, parent="p_2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("type=worker", "12"),
        ("type = worker and status=failed", "1"),
        ("tag.customer=acme", "1"),
        ("tag.customer!=acme", "23"),
        ("type=worker and tag.customer=acme or type=pool", "13"),
        ("type=worker and (tag.customer=acme or type=pool)", "1"),
        ("not type=worker", "3"),
        ("not (type=pool or status=failed)", "2"),
        ("not type=pool and not status=failed", "2"),
        ("type~p*", "3"),
        ("error~*broke*", "1"),
        ('error="it broke (badly)"', "1"),
        ("error='it broke (badly)'", "1"),
        ("age>1h", "1"),
        ("age<2m", "2"),
        ("took>30s and status=done", "3"),
        ("parent=p_2", "3"),
        ("name=one", "1"),
        ("incarnation=0", "123"),
    ],
)
def test_a_query_finds(query: str, found: str) -> None:
    """Fields, tags and times; `not` before `and` before `or`."""
    fits = parse(query)
    assert "".join(row.pid[2:] for row in _rows() if fits(row)) == found


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("", "The query is empty"),
        ("type", "This is no query: 'type'"),
        ("colour=red", "Processes have no 'colour'"),
        ("type=worker status=failed", "does not go on with 'status=failed'"),
        ("type=worker and", "ends where a condition should stand"),
        ("(type=worker", "not closed"),
        ("type=worker)", "does not go on with"),
        ("and type=worker", "A condition should stand where the query has 'and'"),
        ("type>worker", "type cannot be compared with >"),
        ("age>soon", "is no time span"),
        ("name=a b", "This is no query: 'b'"),
    ],
)
def test_what_is_no_query_is_told(query: str, error: str) -> None:
    """With the place where it stops being one."""
    with pytest.raises(UsageError, match=error):
        parse(query)


def test_a_bulk_command_names_one_process_or_a_query() -> None:
    """Not both, and not neither."""
    bulk.check("p_1", "")
    bulk.check("", "type=x")
    for given, where in (("p_1", "type=x"), ("", "")):
        with pytest.raises(UsageError):
            bulk.check(given, where)


def test_the_count_is_shown_before_anything_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal nobody can be asked: then it must be said beforehand."""
    assert bulk.confirm(_rows(), "Cancel", yes=True, dry_run=False)
    assert not bulk.confirm(_rows(), "Cancel", yes=True, dry_run=True)
    assert not bulk.confirm([], "Cancel", yes=True, dry_run=False)
    many = [Row(pid=f"p_{n}", app="a", type="t", status="running") for n in range(25)]
    with pytest.raises(UsageError, match="Nobody can be asked"):
        bulk.confirm(many, "Signal", yes=False, dry_run=False)
    err = capsys.readouterr().err
    assert "Cancel 3 processes:\n  p_1  worker  failed  one\n" in err
    assert "Signal 25 processes:" in err
    assert "and 15 more" in err


def test_one_that_fails_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    """Each is told; the error is raised when all are through."""

    async def do(row: Row) -> str:
        if row.pid == "p_2":
            raise RegrowError("refused")
        return "done"

    with pytest.raises(RegrowError, match="refused"):
        asyncio.run(bulk.each(_rows(), do))
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["p_1 done", "p_3 done"]
    assert shown.err == "error: p_2: refused\n"
