"""Whether a node can have a machine, and whether it has room; and which images are equal."""

from __future__ import annotations

import pytest
from msgspec import Raw
from regrow_machine_manager.capacity import Need, full, misfit
from regrow_machine_manager.warm import same
from regrow_protocol.images import DockerImage, Image, LocalImage, encode_image
from regrow_protocol.machines import NodeRecord

NODE = NodeRecord(node="n", backends=["local"], labels={"gpu": "1"}, max_machines=3, memory=100 << 20)


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        (Need("local"), ""),
        (Need("local", {"gpu": "1"}, "n"), ""),
        (Need("local", {"gpu": "2"}), "lacks the label gpu=2"),
        (Need("docker"), "has no backend 'docker'"),
        (Need("local", node="m"), "the snapshot is on m"),
    ],
)
def test_what_a_node_can_have(need: Need, reason: str) -> None:
    """Its backends, its labels, its snapshots."""
    assert misfit(NODE, need) == reason


@pytest.mark.parametrize(
    ("claimed", "memory", "without", "reason"),
    [
        ({}, [0], (), ""),
        ({"a": 0, "b": 0}, [0], (), ""),
        ({"a": 0, "b": 0}, [0, 0], (), "has 2 of 3 machines"),
        ({"a": 0, "b": 0}, [0, 0], ("a",), ""),
        ({"a": 60 << 20}, [40 << 20], (), ""),
        ({"a": 60 << 20}, [41 << 20], (), "has promised 60 of 100 MiB of memory, and 41 are wanted"),
        ({"a": 60 << 20}, [41 << 20], ("a",), ""),
        ({"a": 200 << 20}, [0], (), ""),
    ],
)
def test_what_a_node_has_room_for(
    claimed: dict[str, int], memory: list[int], without: tuple[str, ...], reason: str
) -> None:
    """By number and by memory; what could be given up does not count."""
    node = NodeRecord(node="n", max_machines=3, memory=100 << 20, claimed=claimed)
    assert full(node, memory, without) == reason


def test_equal_images_are_equal_however_they_are_spelled() -> None:
    """Defaults that are written out change nothing; any other field does."""
    short = Image("docker", Raw(b'{"image":"x"}'))
    assert same(short) == same(encode_image(DockerImage("x")))
    assert same(short) != same(encode_image(DockerImage("x", memory="1g")))
    assert same(encode_image(LocalImage())) != same(short)
    assert same(Image("other", Raw(b"{}"))) == "other {}"
