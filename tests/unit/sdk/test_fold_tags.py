"""Tags of processes: from their type, their spawn, and themselves."""

from __future__ import annotations

import pytest
from fold_world import World
from regrow import agent_process, continue_as_new, set_tags, spawn, wait
from regrow_protocol import messages as m


@pytest.fixture
def world() -> World:
    return World(__name__)


def tags_in(world: World, pid: str) -> list[dict[str, str]]:
    """What the process said its tags are, event by event."""
    records = [m.decode(data, m.EventRecord) for to, _, _, data in world.sent(pid) if to == "event"]
    return [record.meta.tags for record in records if record.meta is not None]


@agent_process(tags={"team": "core", "stage": "new"})
async def tagged(rounds: int = 0) -> None:
    set_tags(stage="busy", rounds=str(rounds))
    if not rounds:
        continue_as_new(1)
    set_tags(stage=None)


@agent_process
async def parent() -> None:
    await spawn(tagged, tags={"customer": "acme", "team": "other"})


def test_tags_of_a_process_are_told_with_its_events(world: World) -> None:
    """Those of the spawn come over those of the type, its own over both; None takes one off; the next incarnation
    has them too."""
    world.run(parent)
    (process,) = world.of_type("tagged")
    first = {"team": "other", "stage": "new", "customer": "acme"}
    busy = {**first, "stage": "busy", "rounds": "0"}
    later = {**busy, "rounds": "1"}
    last = {name: value for name, value in later.items() if name != "stage"}
    assert tags_in(world, process.id) == [first, busy, busy, later, last, last]
    assert world.types(process.id) == ["started", "tagged", "restarted", "tagged", "tagged", "done"]


def test_a_tag_is_a_text(world: World) -> None:
    """In each of the three places."""
    with pytest.raises(TypeError, match="a tag is a text, not 3"):
        agent_process(tags={"n": 3})(wait)  # type: ignore[dict-item, arg-type]
    with pytest.raises(TypeError, match="a tag is a text"):
        set_tags(n=3)  # type: ignore[arg-type]
