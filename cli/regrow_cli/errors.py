"""What the command and the embedded stack raise themselves."""

from __future__ import annotations

from regrow_protocol.errors import RegrowError


class DataDirUnusable(RegrowError):
    """The data folder cannot be made, is not ours, or holds something else."""

    code = "data-dir-unusable"


class StackFailed(RegrowError):
    """The embedded stack did not come up; its own reason is in the message."""

    code = "stack-failed"


class StackTimeout(RegrowError):
    """The embedded stack was neither ready nor at an end when the time was up."""

    code = "stack-timeout"


class UsageError(RegrowError):
    """Options or arguments that do not go together."""

    code = "usage"
