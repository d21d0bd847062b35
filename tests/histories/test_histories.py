"""Histories recorded by earlier versions fold as they did: the same outputs, digest for digest."""

from __future__ import annotations

import pytest
from folded import HERE, Output, fold, load
from recorded_programs import PROGRAMS


@pytest.mark.parametrize("name", sorted(path.stem for path in HERE.glob("*.json")))
def test_a_recorded_history_replays(name: str) -> None:
    """Every process of the run sends what it sent when it was recorded, and has ended."""
    for pid, recorded in load(name).processes.items():
        process, outputs = fold(pid, recorded.inputs)
        for now, then in zip(outputs, recorded.outputs, strict=False):
            assert now == then, f"{process} at input {now.seq}"
        assert len(outputs) == len(recorded.outputs)
        assert process.ended
        process.leave()


def test_every_program_has_a_history() -> None:
    """What is written to be recorded is recorded."""
    assert {path.stem for path in HERE.glob("*.json")} >= set(PROGRAMS)


def test_a_difference_is_seen() -> None:
    """An input more or less, or another number in it, gives other outputs."""
    ((pid, recorded), *_) = load("steps").processes.items()
    assert fold(pid, recorded.inputs)[1] == recorded.outputs
    assert fold(pid, recorded.inputs[:-1])[1] != recorded.outputs
    assert fold(f"{pid}x", recorded.inputs)[1] != recorded.outputs
    assert isinstance(recorded.outputs[0], Output)
