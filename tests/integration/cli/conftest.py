"""What the tests of the command share is in `conftest_cli` and `conftest_machines`, which they can import."""

from conftest_cli import launch, stack, tally
from conftest_machines import box, make

__all__ = ["box", "launch", "make", "stack", "tally"]
