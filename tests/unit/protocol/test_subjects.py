"""Names become safe subject tokens and come back; subjects and filters fit each other."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regrow_protocol import agents, ids, subjects
from regrow_protocol.errors import InvalidName, RegrowError

TOKEN = re.compile(r"[A-Za-z0-9_=-]+")
NAMES = st.text(min_size=1, max_size=subjects.MAX_NAME)
PIDS = st.text().map(lambda seed: ids.derived_id("p", seed, 1_790_000_000.0))


def matches(filter_: str, subject: str) -> bool:
    """Whether NATS would deliver `subject` to a subscription of `filter_` (`*` = one token)."""
    wanted, given_ = filter_.split("."), subject.split(".")
    return len(wanted) == len(given_) and all(w in ("*", g) for w, g in zip(wanted, given_, strict=True))


@given(name=NAMES)
def test_a_name_survives_the_way_through_a_token(name: str) -> None:
    """`untoken` undoes `token`, and the token has neither dots, spaces nor wildcards."""
    encoded = subjects.token(name)
    assert TOKEN.fullmatch(encoded)
    assert subjects.untoken(encoded) == name


@given(a=NAMES, b=NAMES)
def test_different_names_have_different_tokens(a: str, b: str) -> None:
    """Two apps or event types never share a subject."""
    assert (subjects.token(a) == subjects.token(b)) == (a == b)


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("survey", "survey"),
        ("a-b_C9", "a-b_C9"),
        ("a.b", "a=2e=b"),
        ("*", "=2a="),
        (">", "=3e="),
        ("=", "=3d="),
        ("=2e=", "=3d=2e=3d="),
        ("two words", "two=20=words"),
        ("grün", "gr=fc=n"),
        ("🌱", "=1f331="),
        ("a\n", "a=a="),
        ("1²", "1=b2="),
    ],
)
def test_tokens_stay_what_they_are_in_recorded_subjects(name: str, encoded: str) -> None:
    """The encoding is part of the wire contract."""
    assert subjects.token(name) == encoded
    assert subjects.untoken(encoded) == name


@pytest.mark.parametrize("name", ["", "x" * (subjects.MAX_NAME + 1)])
def test_a_name_of_impossible_length_is_refused(name: str) -> None:
    """An empty or overlong name is a clear error, before anything is sent."""
    with pytest.raises(InvalidName, match=rf"1 to {subjects.MAX_NAME} characters, not {len(name)}") as caught:
        subjects.token(name)
    assert isinstance(caught.value, RegrowError)
    assert caught.value.code == "invalid-name"


@given(app=NAMES, part=st.integers(0, 1023), pid=PIDS)
def test_an_inbox_is_found_by_its_partition_and_names_its_process(app: str, part: int, pid: str) -> None:
    """A partition's filter takes its own inboxes and no other's."""
    subject = subjects.inbox(app, part, pid)
    assert subjects.pid_of(subject) == pid
    assert matches(subjects.inbox_partition(app, part), subject)
    assert not matches(subjects.inbox_partition(app, part + 1), subject)
    assert not matches(subjects.inbox_partition(app + "x" if len(app) < 128 else app[1:], part), subject)


@given(app=NAMES, pid=PIDS, type_=NAMES)
def test_an_event_is_found_by_every_filter_that_means_it(app: str, pid: str, type_: str) -> None:
    """App, process and type filter alone and together; the parts of the subject come back."""
    subject = subjects.event(app, pid, type_)
    assert subjects.event_parts(subject) == (app, pid, type_)
    for a in (app, None):
        for p in (pid, None):
            for t in (type_, None):
                assert matches(subjects.events_of(a, p, t), subject)
    assert not matches(subjects.events_of(app, "p_other"), subject)
    assert not matches(subjects.events_of(type_=type_ + "x" if len(type_) < 128 else type_[1:]), subject)


@given(app=NAMES, pid=PIDS, names=st.lists(NAMES, min_size=1, max_size=3))
def test_families_of_subjects_are_apart(app: str, pid: str, names: list[str]) -> None:
    """The second token tells the family, and no user's name can change how many tokens there are."""
    made = {
        "inbox": (subjects.inbox(app, 3, pid), 5),
        "timer": (subjects.timer(app, 3, pid, 0, 7), 7),
        "event": (subjects.event(app, pid, names[0]), 5),
        "agent": (agents.entry_subject(app, "a_1", names[0], "c0ffee"), 6),
        "command": (subjects.command(*names), 2 + len(names)),
        "reply": (subjects.reply("c_1", 7), 4),
        "dead": (subjects.dead(*names), 2 + len(names)),
    }
    for family, (subject, length) in made.items():
        tokens = subject.split(".")
        assert tokens[:2] == ["regrow", family]
        assert len(tokens) == length
        assert all(TOKEN.fullmatch(token) for token in tokens)


def test_subjects_read_as_documented() -> None:
    """The table of the wire protocol, literally."""
    assert subjects.inbox("shop", 3, "p_1") == "regrow.inbox.shop.3.p_1"
    assert subjects.inbox_partition("shop", 3) == "regrow.inbox.shop.3.*"
    assert subjects.timer("shop", 3, "p_1", 2, 41) == "regrow.timer.shop.3.p_1.2.41"
    assert subjects.event("shop", "p_1", "sold out") == "regrow.event.shop.p_1.sold=20=out"
    assert subjects.events_of() == "regrow.event.*.*.*"
    assert subjects.command("supervisor", "start", "my.app") == "regrow.command.supervisor.start.my=2e=app"
    assert subjects.reply("c_1", 9) == "regrow.reply.c_1.9"
    assert subjects.dead("host", "inbox") == "regrow.dead.host.inbox"
