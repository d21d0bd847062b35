"""Histories as data: what is copied of one, what is compared, what is no history."""

from __future__ import annotations

import pytest
from msgspec import Raw
from regrow import history as histories
from regrow.folding import Folding, Recorded, Sent, State
from regrow.history import BadHistory, History, compare, copied
from regrow_protocol import messages as m
from regrow_protocol.messages import Fork, Op, Ref

OP = Op(1, "step", "s", "", "")


def _history(*inputs: m.Input, events: tuple[m.EventRecord, ...] = ()) -> History:
    recorded = [Recorded(10 * n, 100.0 + n, Raw(m.encode(each))) for n, each in enumerate(inputs, 1)]
    return History(app="a", pid="p_1", type="t", build="b1", partitions=16, inputs=recorded, events=list(events))


def _start(**fields: object) -> m.Start:
    return m.Start(type="t", args=Raw(b"{}"), build="b1", parent=Ref("p_0", 0, 1), name="n", **fields)  # type: ignore[arg-type]


RESULT = m.Result(incarnation=0, op=OP, value=Raw(b"1"))


def test_a_copy_keeps_order_and_times() -> None:
    """Inputs up to the cut with their times; the start says whose they are and leaves the name to the other."""
    history = _history(_start(), RESULT, m.Upgrade(build="b2"), m.Resume(), RESULT, m.Cancel())
    start, *rest = copied(history, "b3", at=50)
    assert isinstance(start, m.Start)
    assert (start.build, start.name, start.at, start.forks) == ("b3", "", 101.0, [Fork("p_1", 3)])
    assert start.parent == Ref("p_0", 0, 1)  # until the cut the fold is the other's
    assert [(type(each), each.at) for each in rest] == [(m.Result, 102.0), (m.Result, 105.0)]
    assert len(copied(history, "b3")) == 4


def test_a_time_that_was_copied_before_stays() -> None:
    """A copy of a copy has the times of the first recording."""
    history = _history(_start(at=7.0, forks=[Fork("p_0", 2)]), m.Result(at=8.0, incarnation=0, op=OP), RESULT)
    assert [each.at for each in copied(history, "b")] == [7.0, 8.0, 103.0]


@pytest.mark.parametrize(
    ("at", "forks"),
    [
        (10, [Fork("p_0", 1)]),
        (20, [Fork("p_0", 2), Fork("p_1", 2)]),
        (30, [Fork("p_0", 2), Fork("p_1", 3)]),
    ],
)
def test_a_copy_of_a_copy_names_both(at: int, forks: list[Fork]) -> None:
    """Cut inside the older one, at its end, or later."""
    history = _history(_start(forks=[Fork("p_0", 2)]), RESULT, RESULT)
    start = copied(history, "b", at=at)[0]
    assert isinstance(start, m.Start)
    assert start.forks == forks


def test_a_later_incarnation_begins_at_its_start() -> None:
    """What the one before took is left away; what waited for it is taken along."""
    again = m.Start(type="t", args=Raw(b"{}"), build="b1", incarnation=1, since=20, carry=m.Carry(events=9))
    history = _history(_start(), RESULT, m.Signal(name="waits"), again, m.Cancel())
    inputs = copied(history, "b")
    assert [type(each) for each in inputs] == [m.Signal, m.Start, m.Cancel]
    assert isinstance(inputs[1], m.Start)
    assert (inputs[1].since, inputs[1].forks) == (0, [Fork("p_1", 3)])
    assert inputs[1].carry is not None
    assert inputs[1].carry.events == 0


def test_what_cannot_be_copied() -> None:
    """A cut before the start, and a `restart` body that has not ended."""
    with pytest.raises(BadHistory, match="has not begun at 5"):
        copied(_history(_start()), "b", at=5)
    acts = (_start(), m.Act(incarnation=0, m=1, what="turn"))
    with pytest.raises(BadHistory, match="cannot go on from a copy"):
        copied(_history(*acts), "b")
    ended = m.EventRecord("p_1", 0, 2, 2, "done", 103.0, final=True)
    assert len(copied(_history(*acts, events=(ended,)), "b")) == 2


def test_a_history_survives_its_file() -> None:
    """Written and read again it is the same, messages byte for byte."""
    history = _history(_start(), RESULT, events=(m.EventRecord("p_1", 0, 1, 1, "started", 101.0),))
    back = histories.decode(histories.encode(history))
    assert [m.decode_input(each.message) for each in back.inputs] == [m.decode_input(e.message) for e in history.inputs]
    assert (back.events, back.pid, back.build) == (history.events, "p_1", "b1")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"format":"x"}'])
def test_what_is_no_history(data: bytes) -> None:
    """One error for all of it."""
    with pytest.raises(BadHistory):
        histories.decode(data)
    wrong = histories.encode(_history(_start())).replace(b'"start"', b'"coup"')
    with pytest.raises(BadHistory, match="Input 10"):
        histories.decode(wrong)


def test_outputs_are_compared_by_id() -> None:
    """Equal as JSON, not as text; missing only counts where it must be recorded; a reply may have expired."""

    def sent(n: int, to: str, seq: int, text: bytes) -> Sent:
        return Sent(f"p_1.0.{n}", to, "x", seq, Raw(text))  # type: ignore[arg-type]

    folding = Folding(
        State("running", 0.0, 5),
        4,
        [
            sent(1, "event", 10, b'{"a":1,"b":2}'),
            sent(2, "inbox", 10, b"[1]"),
            sent(3, "inbox", 20, b"[]"),
            sent(4, "inbox", 30, b"[]"),
            sent(5, "reply", 20, b"{}"),
        ],
    )
    recorded = {"p_1.0.1": Raw(b'{ "b": 2, "a": 1 }'), "p_1.0.2": Raw(b"[2]"), "p_1.0.9": Raw(b"{}")}
    result = compare(folding, recorded, floor=20)
    assert (result.equal, result.expired, result.awaited) == (1, 1, 1)
    found = [(each.id, each.what, each.seq) for each in result.differences]
    assert found == [("p_1.0.2", "other", 10), ("p_1.0.3", "missing", 20), ("p_1.0.9", "extra", 0)]
    assert [each.what for each in compare(folding, recorded, floor=20, partly=True).differences] == ["other", "missing"]
