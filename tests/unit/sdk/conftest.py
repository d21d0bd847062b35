"""Of tests that fold without a server."""

from __future__ import annotations

from collections.abc import Iterator

import fold_world
import pytest


@pytest.fixture(autouse=True)
def _left() -> Iterator[None]:
    """What a test leaves running in its worlds is closed as a host would, not by the garbage collector."""
    yield
    while fold_world.made:
        fold_world.made.pop().leave()
