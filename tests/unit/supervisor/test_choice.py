"""Which build takes over the processes of one without hosts."""

from __future__ import annotations

import pytest
from regrow_protocol.messages import HostRecord
from regrow_supervisor.choice import LiveBuild, newest


def live(
    build: str, types: str = "main worker", target: str = "/srv/shop.py", created: float | None = None
) -> LiveBuild:
    host = HostRecord(host="h_1", app="app", build=build, types=types.split(), target=target, started=50.0)
    return LiveBuild.of(build, [host], created)


def test_the_newest_build_wins() -> None:
    """By when the build was first seen; without a record of that, by its first host."""
    assert newest([live("b1", created=1.0), live("b3", created=3.0), live("b2", created=2.0)], "main", "") == "b3"
    assert newest([live("b1", created=1.0), live("b2")], "main", "") == "b2"


@pytest.mark.parametrize(
    ("type_", "target", "chosen"),
    [
        ("worker", "/srv/shop.py", "b1"),
        ("worker", "/releases/2/shop.py", "b1"),
        ("worker", "", "b1"),
        ("worker", "/srv/survey.py", None),
        ("stranger", "/srv/shop.py", None),
        ("stranger", "", None),
        ("main.<locals>.inner#1", "/srv/shop.py", "b1"),
        ("main.<locals>.inner#1", "/srv/survey.py", None),
        ("main.<locals>.inner#1", "", None),
    ],
)
def test_only_a_build_that_runs_the_process_is_chosen(type_: str, target: str, chosen: str | None) -> None:
    """The type must be known there, and the program be the same where both are known.

    A function inside another is known nowhere: its process goes where its program is, to fail there.
    """
    assert newest([live("b1")], type_, target) == chosen


def test_another_program_with_a_type_of_the_same_name_is_not_chosen() -> None:
    """Two programs of one app may both have a `main`."""
    builds = [live("b1", created=1.0), live("b2", target="/srv/survey.py", created=2.0)]
    assert newest(builds, "main", "/srv/shop.py") == "b1"
    assert newest(builds, "main", "") == "b2"


def test_hosts_that_name_no_program_are_asked_for_types_only() -> None:
    """A host of a module may not say what it runs."""
    assert newest([live("b1", target="")], "main", "/srv/shop.py") == "b1"


def test_without_living_builds_there_is_no_choice() -> None:
    """The process waits."""
    assert newest([], "main", "") is None
