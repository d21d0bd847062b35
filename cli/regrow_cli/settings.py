"""The options that every command takes, and what follows from them.

They may stand anywhere on the command line, before or after the command: `regrow ls --data DIR` as well as
`regrow --data DIR ls`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import typer
from msgspec import Struct

from .errors import UsageError
from .stack import ensure_stack, stack_status

FLAGS = ("--debug",)
WITH_VALUE = ("--nats", "--data")


class Settings(Struct, frozen=True):
    """What was asked for.

    Attributes:
        debug: show tracebacks.
        nats: URL of the NATS server to use, or empty.
        data: folder of the embedded stack; None: `REGROW_HOME`, else `~/.regrow`.
    """

    debug: bool = False
    nats: str = ""
    data: Path | None = None

    def running_url(self) -> str:
        """URL of the server, or empty when the embedded stack would be it and does not run.

        `--nats` comes first, then the stack of an explicit `--data`, then `REGROW_NATS_URL`, then the embedded stack.
        """
        if given := self._given():
            return given
        info = stack_status(self.data).info
        return info.url if info else ""

    def url(self) -> str:
        """As `running_url`, but the embedded stack is started when it does not run.

        Raises:
            DataDirUnusable, StackFailed, StackTimeout: it cannot be started.
        """
        return self._given() or ensure_stack(self.data).url

    def _given(self) -> str:
        if self.nats or self.data:
            return self.nats
        return os.environ.get("REGROW_NATS_URL", "")


def of(context: typer.Context) -> Settings:
    """The settings of the command that runs in `context`."""
    settings = context.find_root().obj
    assert isinstance(settings, Settings)
    return settings


def to_front(arguments: Sequence[str]) -> list[str]:
    """The same command line with the common options first; what follows `--` is left alone."""
    front: list[str] = []
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            rest += [argument, *waiting]
            break
        if argument in FLAGS or argument.startswith(tuple(f"{name}=" for name in WITH_VALUE)):
            front.append(argument)
        elif argument in WITH_VALUE:
            if not waiting:
                raise UsageError(f"{argument} needs a value", hint="regrow --help")
            front += [argument, waiting.pop(0)]
        else:
            rest.append(argument)
    return front + rest
