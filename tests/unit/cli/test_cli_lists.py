"""Trees, tables and counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from regrow_cli.listing import duration, print_table, ranges, short
from regrow_cli.live_view import Tree, event_line
from regrow_cli.processes import Row, in_tree_order, row_of, tree_of
from regrow_protocol.messages import EventRecord, ProcessMeta, ProcessRecord, Stuck


def _row(pid: str, parent: str | None = None, started: float = 0.0) -> Row:
    return Row(pid=pid, app="a", type="t", status="running", parent=parent, started=started)


def test_children_stand_below_their_parents() -> None:
    """By start, each with its depth; whose parent is not listed stands as a root."""
    given = [_row("d", "b", 4), _row("c", "a", 2), _row("b", "a", 1), _row("a"), _row("x", "gone", 3)]
    assert [(row.pid, row.depth) for row in in_tree_order(given)] == [("a", 0), ("b", 1), ("d", 2), ("c", 1), ("x", 0)]
    assert [(row.pid, row.depth) for row in tree_of(given, "b")] == [("b", 0), ("d", 1)]
    assert tree_of(given, "nobody") == []


@given(parents=st.lists(st.integers(0, 30), max_size=30))
def test_every_process_is_listed_once(parents: list[int]) -> None:
    """Whatever the tree, in whatever order it is given."""
    rows = [_row(f"p{i}", f"p{parent}" if parent < i else None, i) for i, parent in enumerate(parents)]
    for order in (rows, rows[::-1]):
        listed = in_tree_order(order)
        assert sorted(row.pid for row in listed) == sorted(row.pid for row in rows)
        place = {row.pid: n for n, row in enumerate(listed)}
        assert all(place[row.parent] < place[row.pid] for row in rows if row.parent is not None)


def test_status_is_that_of_the_present_build() -> None:
    """What a cursor of another build says of a process does not count; without a host it is `no-host`."""
    record = ProcessRecord(pid="p", app="a", type="t", build="new", status="running", seq=1)
    why = Stuck(7, "nondeterminism", "line 3")
    assert row_of(record, [("a", "new")], {("a", "old", "p"): why}).status == "running"
    assert row_of(record, [("a", "old")], {}).status == "no-host"
    stuck = row_of(record, [("a", "new")], {("a", "new", "p"): why})
    assert (stuck.status, stuck.stuck) == ("stuck", why)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0.0s"), (0.04, "0.0s"), (9.94, "9.9s"), (12.3, "12s"), (61, "1m01s"), (3600, "1h00m"), (90061, "1d01h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    """The largest two."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([0, 1], "0-1"), ([0, 1, 2, 3, 7], "0-3,7"), ([1, 3, 4, 6], "1,3-4,6")],
)
def test_numbers_are_shown_as_ranges(numbers: list[int], text: str) -> None:
    """Neighbours stand together."""
    assert ranges(numbers) == text


def test_a_table_without_a_terminal_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """No colours, nothing cut, no spaces at the end; an empty one is a remark on standard error."""
    print_table(["PID", "STATUS"], [["p_1", "failed"], ["p_2" * 60, "done"]], empty="none")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "p_2" * 60 in out
    assert all(line == line.rstrip() for line in out.splitlines())
    print_table(["PID"], [], empty="none")
    assert capsys.readouterr() == ("", "none\n")


def _event(pid: str, type_: str, *, final: bool = False, root: str = "r") -> EventRecord:
    return EventRecord(pid, 0, 1, 1, type_, 0.0, final=final, meta=ProcessMeta("t", "b", root=root))


def test_a_tree_is_counted_in_any_order() -> None:
    """First and last events may come twice and the wrong way round; those of other trees do not count."""
    tree = Tree("r", {"old": "done"})
    for event in [
        _event("c", "done", final=True),
        _event("c", "started"),
        _event("d", "started"),
        _event("d", "started"),
    ]:
        assert tree.take(event)
    assert not tree.take(_event("z", "started", root="another"))
    assert tree.counts() == "2 running, 2 done"
    tree.take(_event("r", "failed", final=True, root=""))
    assert tree.counts() == "1 running, 2 done, 1 failed"


def test_an_event_is_one_line() -> None:
    """Time, source, type, data; long data is cut, null is not shown."""
    record = EventRecord("p", 0, 1, 1, "progress", 0.0, Raw(b'{"text":"' + b"x" * 500 + b'"}'), source="w")
    line = event_line(record)
    assert "w: progress  {" in line
    assert len(line) < 350
    assert event_line(EventRecord("p", 0, 1, 1, "started", 0.0)).endswith("started")
    assert short(Raw("ä".encode() * 9), 5) == "ääää…"
