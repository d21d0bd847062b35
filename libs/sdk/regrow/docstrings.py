"""What a docstring says: of the function, of its parameters, of what it returns.

Read are the three usual styles: Google's (`Args:`), numpy's (underlined headings) and reST's (`:param name:`, also with
`@`). What none of them explains stays in the text; a section about errors or examples does not.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

_OF_PARAMETERS = frozenset(
    {"args", "arguments", "parameters", "params", "keyword args", "keyword arguments", "other parameters", "attributes"}
)
_OF_RESULT = frozenset({"returns", "return"})
_OTHERS = frozenset(
    {"raises", "yields", "yield", "examples", "example", "references", "see also", "warns", "todo", "methods"}
)
_HEADING = re.compile(r"([A-Za-z ]+):\s*$")
_UNDERLINE = re.compile(r"(-{3,}|={3,})\s*$")
_FIELD = re.compile(r"[:@](\w+)(?:\s+([^:]*?))?:(?:\s+(.*))?$")
_GOOGLE_ENTRY = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?:\([^)]*\))?\s*:(?:\s+(.*)|$)")
_NUMPY_ENTRY = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?$")


@dataclass
class Doc:
    """A docstring, taken apart.

    Attributes:
        text: about the whole, paragraphs parted by an empty line.
        parameters: name → what it is, on one line.
        returns: what is returned, on one line.
    """

    text: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    returns: str = ""


def parse(docstring: str | None) -> Doc:
    """Take a docstring apart."""
    doc = Doc()
    lines = inspect.cleandoc(docstring).splitlines() if docstring else []
    text: list[str] = []
    at = 0
    while at < len(lines):
        if (section := _section(lines, at)) is not None:
            name, first, end, entry = section
            _take_section(doc, name, lines[first:end], entry)
            at = end
        elif found := _FIELD.match(lines[at]):
            end = _block_end(lines, at + 1)
            _take_field(doc, found[1], found[2] or "", [found[3] or "", *lines[at + 1 : end]])
            at = end
        else:
            text.append(lines[at].rstrip())
            at += 1
    doc.text = re.sub(r"\n{3,}", "\n\n", "\n".join(text)).strip()
    return doc


def _section(lines: list[str], at: int) -> tuple[str, int, int, re.Pattern[str]] | None:
    """The section that begins here: its name, its first line, the line after it, and how its entries look."""
    known = _OF_PARAMETERS | _OF_RESULT | _OTHERS
    line = lines[at]
    if line[:1].isspace():
        return None
    if (found := _HEADING.match(line)) and found[1].strip().lower() in known:
        return found[1].strip().lower(), at + 1, _block_end(lines, at + 1), _GOOGLE_ENTRY
    name = line.strip().lower()
    if name in known | {"notes"} and at + 1 < len(lines) and _UNDERLINE.match(lines[at + 1]):
        end = at + 2
        while end < len(lines) and not (end + 1 < len(lines) and _UNDERLINE.match(lines[end + 1])):
            end += 1
        return name, at + 2, end, _NUMPY_ENTRY
    return None


def _block_end(lines: list[str], at: int) -> int:
    """The first line from `at` on that is neither indented nor empty."""
    while at < len(lines) and (not lines[at].strip() or lines[at][:1].isspace()):
        at += 1
    return at


def _take_section(doc: Doc, name: str, lines: list[str], entry: re.Pattern[str]) -> None:
    block = inspect.cleandoc("\n".join(["", *lines])).splitlines()
    if name in _OF_PARAMETERS:
        _take_entries(doc, block, entry)
    elif name in _OF_RESULT and entry is _NUMPY_ENTRY:
        said = [line for line in block if line[:1].isspace()]
        doc.returns = _one_line(said or block)
    elif name in _OF_RESULT:
        doc.returns = _one_line(block)


def _take_entries(doc: Doc, block: list[str], entry: re.Pattern[str]) -> None:
    names: list[str] = []
    said: list[str] = []

    def flush() -> None:
        for name in names:
            doc.parameters[name] = _one_line(said)

    for line in block:
        if line.strip() and not line[:1].isspace() and (found := entry.match(line)):
            flush()
            names = [each.strip().lstrip("*") for each in found[1].split(",")]
            said = [found[2] or ""] if entry is _GOOGLE_ENTRY else []
        else:
            said.append(line)
    flush()


def _take_field(doc: Doc, kind: str, about: str, said: list[str]) -> None:
    if kind in ("param", "parameter", "arg", "argument", "key", "keyword") and about:
        doc.parameters[about.split()[-1].lstrip("*")] = _one_line(said)
    elif kind in ("return", "returns"):
        doc.returns = _one_line(said)


def _one_line(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())
