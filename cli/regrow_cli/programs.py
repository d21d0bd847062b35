"""Programs as commands need them: loaded here to see what is in them; what they print by that is no result."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regrow.codec import to_raw
from regrow.definition import ProcessType
from regrow.errors import InvalidArguments, ProgramError
from regrow.program import LoadedProgram, load
from regrow_protocol import messages as m
from regrow_protocol.messages import Raw

from .arguments import parse


def load_quietly(target: str) -> LoadedProgram:
    """Import a program; what it prints goes to standard error.

    Raises:
        ProgramError: it cannot be imported, or defines no process.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:  # as `python -m` has it, by which hosts run
        sys.path.insert(0, folder)
    with contextlib.redirect_stdout(sys.stderr):
        return load(target)


def process_type(program: LoadedProgram, name: str) -> ProcessType[Any, Any]:
    """The process type `name` of a program, by default its main one. Raises ProgramError."""
    chosen = name or program.main
    if chosen not in program.types:
        known = ", ".join(sorted(program.types))
        raise ProgramError(f"{program.target} has no process {chosen!r}", hint=f"it has: {known}")
    return program.types[chosen]


def arguments_for(type_: ProcessType[Any, Any], given: Sequence[str]) -> Raw:
    """`k=v` arguments as they travel, checked against the function's signature.

    Raises:
        UsageError: they cannot be read.
        InvalidArguments, NotSendable, ValueTooLarge: they do not fit.
    """
    raw = to_raw(parse(given, type_.signature._hints), f"An argument of {type_.name}()")
    try:
        type_.signature.decode(raw)
    except InvalidArguments as error:
        if error.hint:
            raise
        signature = inspect.signature(type_.function)
        raise InvalidArguments(error.message, hint=f"its signature is {type_.name}{signature}") from error
    return raw


def folder_of(program: m.Program) -> str | None:
    """The folder that a program was started in, where it is still there."""
    return program.cwd if program.cwd and Path(program.cwd).is_dir() else None


def go_to(program: m.Program) -> None:
    """Change to the folder that a program was started in, where it is still there."""
    if (folder := folder_of(program)) is not None:
        os.chdir(folder)
