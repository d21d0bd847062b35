"""`k=v` arguments of the command line, and `FILE[:fn]`.

A value is JSON where it parses as JSON, else it is the text itself; `@FILE` stands for what a file holds (`@-`:
standard input). The callee converts it by its annotations; where those are known here, what goes to a `str` is taken as
text in any case.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from .errors import UsageError


def parse(arguments: Sequence[str], hints: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The values by name.

    Args:
        arguments: `k=v` each.
        hints: annotations of the parameters, where known.

    Raises:
        UsageError: something is no `k=v`, is given twice, or names a file that cannot be read.
    """
    values: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"{argument!r} is no argument", hint="write name=value; values are JSON, or else text")
        if name in values:
            raise UsageError(f"The argument {name} is given twice")
        content = _content(name, text)
        values[name] = content if _is_text((hints or {}).get(name)) else _value(content)
    return values


def _content(name: str, text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return sys.stdin.read() if text == "@-" else Path(text[1:]).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        hint = f"""text that begins with @ is written as JSON: {name}='"{text}"'"""
        raise UsageError(f"The file {text[1:]} for argument {name} cannot be read: {reason}", hint=hint) from error


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return text


def _is_text(hint: Any) -> bool:
    """Whether an annotation is `str`, perhaps with None."""
    return hint is str or set(typing.get_args(hint)) == {str, type(None)}


def split_target(given: str) -> tuple[str, str]:
    """`FILE[:fn]` or `module[:fn]` as (program, process type or empty)."""
    prefix, rest = ("module:", given.removeprefix("module:")) if given.startswith("module:") else ("", given)
    program, colon, name = rest.rpartition(":")
    if colon and program and name.isidentifier():
        return prefix + program, name
    return given, ""
