"""The base of every error that Regrow raises.

An error has a stable `code` (for machines), and a message in three parts: what happened, to whom, what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class RegrowError(Exception):
    """Base of all errors of Regrow.

    Attributes:
        code: stable, kebab-case; never reused with another meaning.
        hint: what to do about it, one line, or the empty string.
    """

    code: ClassVar[str] = "regrow-error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class Unreachable(RegrowError):
    """The NATS server does not answer."""

    code = "nats-unreachable"


class AccessDenied(RegrowError):
    """The NATS server refuses the credentials, or a permission is missing."""

    code = "nats-access-denied"


class StorageFull(RegrowError):
    """The stream's store is full: nothing was written."""

    code = "storage-full"


class PublishRejected(RegrowError):
    """The server refused one message for good (too large, not permitted): sending it again cannot help."""

    code = "publish-rejected"


class WrongRevision(RegrowError):
    """A compare-and-set lost against another writer."""

    code = "wrong-revision"


class ValueTooLarge(RegrowError):
    """A value is larger than what may be sent."""

    code = "value-too-large"


class InvalidName(RegrowError):
    """A name or id that cannot be used where it was given."""

    code = "invalid-name"
