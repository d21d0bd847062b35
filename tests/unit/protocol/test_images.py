"""Images travel as their backend's name and what is not at its default; sizes are bytes or text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
from regrow_protocol.images import (
    IMAGES,
    DockerImage,
    InvalidImage,
    Limits,
    LocalImage,
    MorphImage,
    SSHImage,
    decode_image,
    encode_image,
    from_snapshot,
    size,
    split_wishes,
)


@pytest.mark.parametrize(
    "image",
    [
        LocalImage(),
        LocalImage(workdir="/srv", env={"A": "1"}, user="agent", limits=Limits(cpu=3, memory="1g")),
        DockerImage("python:3.12", volumes={"/data": "/data:ro"}, memory="2g", cpus=1.5, gpus="all", pull="never"),
        SSHImage("host.example", user="me", jump="you@gate:2222"),
        SSHImage(hosts=["a", "b:2222"]),
        MorphImage(recipe=["apt-get install -y git"], vcpus=2),
        from_snapshot("s_1"),
    ],
    ids=lambda image: type(image).__name__,
)
def test_an_image_comes_back_as_it_went(image: object) -> None:
    """Whatever is given, and only that, is in the message."""
    sent = encode_image(image)  # type: ignore[arg-type]
    assert decode_image(sent, IMAGES[sent.backend]) == image


def test_defaults_are_not_sent() -> None:
    """A message stays small, and equal images are equal messages."""
    assert bytes(encode_image(LocalImage()).options) == b"{}"
    assert json.loads(bytes(encode_image(DockerImage("a", pids=4096)).options)) == {"image": "a"}


@dataclass(frozen=True)
class Unsendable:
    backend: ClassVar[str] = "odd"
    thing: object = None


@pytest.mark.parametrize("image", ["python:3.12", LocalImage, object(), Unsendable(object())])
def test_what_is_no_image(image: object) -> None:
    """It is refused where it is given."""
    with pytest.raises(InvalidImage):
        encode_image(image)  # type: ignore[arg-type]


def test_fields_that_do_not_fit() -> None:
    """The error names the image's class."""
    with pytest.raises(InvalidImage, match="DockerImage"):
        encode_image(DockerImage("a", env={"A": 1}))  # type: ignore[dict-item]


def test_the_wish_for_snapshots_is_taken_out() -> None:
    """It is no matter of the backend."""
    assert split_wishes(LocalImage(env={"A": "1"}, snapshot_on_failure=True)) == (LocalImage(env={"A": "1"}), True)
    assert split_wishes(LocalImage()) == (LocalImage(), False)


@pytest.mark.parametrize(
    ("text", "value"),
    [(7, 7), ("7", 7), ("512m", 512 << 20), ("2g", 2 << 30), ("1.5k", 1536), ("1GiB", 1 << 30), (" 3 MB ", 3 << 20)],
)
def test_sizes(text: int | str, value: int) -> None:
    """Bytes, with or without a unit."""
    assert size(text) == value


@pytest.mark.parametrize("text", [0, -1, "", "m", "1q", "one", "1e999", "nan", "-5g"])
def test_what_is_no_size(text: int | str) -> None:
    """It is an error of the image."""
    with pytest.raises(InvalidImage):
        size(text)
