"""A public suite whose programs are started by a fixture of its class, when there are machines for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Later:
    """A base before the suite; a fixture of the class ends with `yield from cls.served()`."""

    @classmethod
    def setup_class(cls) -> None:
        """See the fixture."""

    @classmethod
    def teardown_class(cls) -> None:
        """See the fixture."""

    @classmethod
    def served(cls) -> Iterator[None]:
        """What the suite does at its setup and teardown."""
        suite: Any = super()
        suite.setup_class()
        try:
            yield
        finally:
            suite.teardown_class()
