"""Queries for processes: `type=worker and tag.customer=acme and status!=done`.

A query is conditions with `and`, `or`, `not` and brackets; `and` binds before `or`. A condition compares a field with a
text: `=`, `!=`, `~` (a shell pattern, as `p*`), and for times `<` and `>` (`age>2h`, `took<30s`). A text with blanks or
brackets stands in quotes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TypeAlias

from .durations import seconds
from .errors import UsageError
from .processes import Row

Test: TypeAlias = Callable[[Row], bool]

FIELDS = ("type", "status", "app", "pid", "parent", "root", "name", "build", "error", "incarnation")
SPANS = ("age", "took")
HINT = "as in: type=worker and tag.customer=acme and status=failed"

_TOKEN = re.compile(
    r"""\s*(?: (?P<bracket>[()]) | (?P<field>[A-Za-z][\w.-]*) \s* (?P<op>!=|=|~|<|>) \s*
        (?: "(?P<quoted>[^"]*)" | '(?P<single>[^']*)' | (?P<plain>[^\s()"']+) ) | (?P<word>and|or|not)\b )""",
    re.VERBOSE,
)


def parse(text: str) -> Test:
    """The test that a query is.

    Raises:
        UsageError: it is none; the message tells where it stops being one.
    """
    tokens = _tokens(text)
    if not tokens:
        raise UsageError("The query is empty", hint=HINT)
    test, rest = _any(tokens)
    if rest:
        raise UsageError(f"The query does not go on with {_shown(rest[0])}", hint=HINT)
    return test


def _tokens(text: str) -> list[re.Match[str]]:
    found: list[re.Match[str]] = []
    position = 0
    while text[position:].strip():
        token = _TOKEN.match(text, position)
        if token is None:
            raise UsageError(f"This is no query: {text[position:].strip()[:60]!r}", hint=HINT)
        found.append(token)
        position = token.end()
    return found


def _shown(token: re.Match[str]) -> str:
    return repr(token[0].strip())


def _any(tokens: list[re.Match[str]]) -> tuple[Test, list[re.Match[str]]]:
    test, rest = _all(tokens)
    while rest and rest[0]["word"] == "or":
        other, rest = _all(rest[1:])
        test = _either(test, other)
    return test, rest


def _all(tokens: list[re.Match[str]]) -> tuple[Test, list[re.Match[str]]]:
    test, rest = _one(tokens)
    while rest and rest[0]["word"] == "and":
        other, rest = _one(rest[1:])
        test = _both(test, other)
    return test, rest


def _one(tokens: list[re.Match[str]]) -> tuple[Test, list[re.Match[str]]]:
    if not tokens:
        raise UsageError("The query ends where a condition should stand", hint=HINT)
    first, rest = tokens[0], tokens[1:]
    if first["word"] == "not":
        test, rest = _one(rest)
        return (lambda row: not test(row)), rest
    if first["bracket"] == "(":
        test, rest = _any(rest)
        if not rest or rest[0]["bracket"] != ")":
            raise UsageError("A bracket of the query is not closed", hint=HINT)
        return test, rest[1:]
    if first["field"] is None:
        raise UsageError(f"A condition should stand where the query has {_shown(first)}", hint=HINT)
    return _condition(first), rest


def _either(one: Test, other: Test) -> Test:
    return lambda row: one(row) or other(row)


def _both(one: Test, other: Test) -> Test:
    return lambda row: one(row) and other(row)


def _condition(token: re.Match[str]) -> Test:
    field, op = token["field"], token["op"]
    wanted = next(value for value in (token["quoted"], token["single"], token["plain"]) if value is not None)
    if op in "<>":
        return _span(field, op, wanted)
    value = _field(field)
    if op == "~":
        return lambda row: fnmatchcase(value(row), wanted)
    return (lambda row: value(row) == wanted) if op == "=" else (lambda row: value(row) != wanted)


def _field(field: str) -> Callable[[Row], str]:
    if field.startswith("tag."):
        tag = field.removeprefix("tag.")
        return lambda row: row.tags.get(tag, "")
    if field not in FIELDS:
        raise UsageError(f"Processes have no {field!r}", hint=f"there are: {', '.join(FIELDS)}, tag.NAME; age, took")
    return lambda row: "" if (value := getattr(row, field)) is None else str(value)


def _span(field: str, op: str, wanted: str) -> Test:
    if field not in SPANS:
        raise UsageError(f"{field} cannot be compared with {op}", hint="only age and took can, with 90s, 30m, 12h, 7d")
    limit = seconds(wanted)

    def span(row: Row) -> float:
        now = time.time()
        return now - row.started if field == "age" else (row.ended or now) - row.started

    return (lambda row: span(row) < limit) if op == "<" else (lambda row: span(row) > limit)
