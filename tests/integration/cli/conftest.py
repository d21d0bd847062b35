"""What the tests of the command share is in `conftest_cli`, which they can import."""

from conftest_cli import launch, stack, tally

__all__ = ["launch", "stack", "tally"]
