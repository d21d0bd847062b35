"""Changed code and the histories from before: `patched` and `deprecate_patch`."""

from __future__ import annotations

from pathlib import Path

import pytest
from fold_world import World
from regrow import agent_process, deprecate_patch, emit, patched, receive
from regrow.patches import moved_in, patches_of
from regrow.process import Process
from regrow_protocol import messages as m


@pytest.fixture
def world() -> World:
    return World(__name__)


@agent_process
async def changed() -> list[str]:
    said: list[str] = []
    for round_ in range(3):
        said.append("new" if patched("greeting") else "old")
        emit("said", [round_, said[-1]])
        await receive("next")
    return said


def signals(world: World, pid: str, *ks: int) -> None:
    for k in ks:
        world.send(pid, m.Signal(name="next", client="c_2", k=k))
    world.settle(timers=False)


def again(world: World, pid: str) -> Process:
    """Its history folded by the code as it is, from the first input on, as a new host does."""
    process = Process(world.env, pid)
    process.replaying = True
    process.moved = moved_in((message, turn.seq) for message, turn in zip(
        world.inputs(pid), world.histories[pid], strict=True))  # fmt: skip
    for turn in world.histories[pid]:
        process.apply(m.decode_input(turn.message), turn.seq, turn.time)
        process.take_outputs()
    return process


def said(process: Process) -> list[str]:
    return [m.msgspec.json.decode(event.data)[1] for event in process.events if event.type == "said"]


def test_a_new_process_has_the_patch(world: World) -> None:
    pid = world.start(changed)
    signals(world, pid, 1, 2, 3)
    assert world.result(pid) == ["new", "new", "new"]
    world.check()


def test_what_was_passed_before_the_upgrade_stays_as_it_was(world: World) -> None:
    """And what comes after it has the patch; with a second upgrade, of a build that had it, nothing changes."""
    pid = world.start(changed)
    signals(world, pid, 1)
    world.send(pid, m.Upgrade(build="build2", had=[]))
    signals(world, pid, 2)
    assert said(again(world, pid)) == ["old", "old", "new"]
    world.send(pid, m.Upgrade(build="build3", had=["greeting"]))
    world.settle(timers=False)
    assert said(again(world, pid)) == ["old", "old", "new"]
    other = world.start(changed)
    world.settle(timers=False)
    world.send(other, m.Upgrade(build="build3", had=["greeting", "more"]))
    signals(world, other, 1)
    assert said(again(world, other)) == ["new", "new"]


@agent_process
async def only_new() -> str:
    await receive("next")
    deprecate_patch("greeting")
    return "fine"


def test_a_deprecated_patch_refuses_what_still_needs_the_old_code(world: World) -> None:
    """Everything else goes on."""
    pid = world.start(only_new)
    signals(world, pid, 1)
    assert world.result(pid) == "fine"
    world.send(pid, m.Upgrade(build="build2", had=[]))
    world.settle(timers=False)
    process = again(world, pid)
    assert process.result_raw is not None
    failure = process.result_raw[2]
    assert failure is not None
    assert (failure.code, "came to the patch 'greeting'" in failure.message) == ("nondeterminism", True)


def test_the_patches_of_a_program_are_read_from_its_code(tmp_path: Path) -> None:
    """Literal ids, called by name or through the module, once each."""
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("import regrow\nif regrow.patched('b') or regrow.patched('a'):\n    pass\nother('patched')\n")
    two.write_text("from regrow import deprecate_patch, patched\npatched('b')\ndeprecate_patch('c')\npatched(name)\n")
    assert patches_of([str(one), str(two)]) == ("a", "b", "c")
