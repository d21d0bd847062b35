"""The table of streams and buckets says what the design demands of each."""

from __future__ import annotations

import pytest
from regrow_protocol import streams


def test_an_inbox_stream_holds_inboxes_and_timers() -> None:
    """A schedule's target must be in its own stream, so timers and inboxes of an app share one."""
    config = streams.inbox_spec("my app", duplicate_window=30).config(3)
    assert config["name"] == streams.inbox_stream("my app") == "REGROW_INBOX_my=20=app"
    assert config["subjects"] == ["regrow.inbox.my=20=app.>", "regrow.timer.my=20=app.>"]
    assert config["retention"] == "limits"
    assert config["num_replicas"] == 3
    assert config["duplicate_window"] == 30 * streams.NANO
    for flag in ("allow_msg_schedules", "allow_atomic", "allow_direct", "allow_msg_ttl"):
        assert config[flag] is True


def test_no_subject_belongs_to_two_streams() -> None:
    """The subjects of the common streams do not overlap."""
    specs = [*streams.STREAMS, *[bucket.stream() for bucket in streams.BUCKETS], streams.VALUES_STREAM]
    heads = [subject.removesuffix(">") for spec in specs for subject in spec.subjects]
    assert len(set(heads)) == len(heads)
    assert not [(a, b) for a in heads for b in heads if a != b and a.startswith(b)]


def test_buckets_that_decide_are_read_from_the_leader_only() -> None:
    """A follower's stale answer must never decide who owns something."""
    direct = {bucket.name for bucket in streams.BUCKETS if bucket.stream().config(1)["allow_direct"]}
    assert direct == {"regrow_processes"}


def test_replies_go_after_ten_minutes() -> None:
    """The window in which ids are recognised is no longer than messages live (the server demands it)."""
    config = next(spec for spec in streams.STREAMS if spec.name == streams.REPLIES).config(1)
    assert config["max_age"] == 600 * streams.NANO
    assert config["duplicate_window"] <= config["max_age"]


def test_replicas_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`REGROW_REPLICAS` is the default, and one is its default."""
    monkeypatch.delenv("REGROW_REPLICAS", raising=False)
    assert streams.default_replicas() == 1
    monkeypatch.setenv("REGROW_REPLICAS", "3")
    assert streams.default_replicas() == 3
