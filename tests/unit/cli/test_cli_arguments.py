"""`name=value` arguments and `FILE[:fn]`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from regrow_cli.arguments import parse, split_target
from regrow_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-0.5", -0.5),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ('{"a": 1}', {"a": 1}),
        ('"7"', "7"),
        ("", ""),
        ("seven", "seven"),
        ("a=b", "a=b"),
        ("/usr/lib", "/usr/lib"),
        ("[1, 2", "[1, 2"),
        ("NaN", "NaN"),
        ('"@x"', "@x"),
    ],
)
def test_a_value_is_json_or_text(text: str, value: object) -> None:
    """What does not parse is taken as it stands."""
    assert parse([f"name={text}"]) == {"name": value}


def test_what_goes_to_text_stays_text() -> None:
    """Where the annotation is known, with or without None."""
    hints = {"a": str, "b": str | None, "c": int, "d": list[str]}
    assert parse(["a=7", "b=null", "c=7", 'd=["7"]'], hints) == {"a": "7", "b": "null", "c": 7, "d": ["7"]}


def test_a_file_is_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON or text, from a file or standard input."""
    (tmp_path / "n").write_text("[7]\n")
    (tmp_path / "t").write_text("two\nlines")
    monkeypatch.setattr("sys.stdin", io.StringIO('{"x": 1}'))
    given = parse([f"n=@{tmp_path / 'n'}", f"t=@{tmp_path / 't'}", "i=@-"])
    assert given == {"n": [7], "t": "two\nlines", "i": {"x": 1}}


@pytest.mark.parametrize("argument", ["", "=", "=7", "7", "a-b=1", "a.b=1", "a b=1"])
def test_what_is_no_argument(argument: str) -> None:
    """The name must be one that Python takes."""
    with pytest.raises(UsageError, match="no argument"):
        parse([argument])


def test_twice_is_once_too_often(tmp_path: Path) -> None:
    """Nothing is silently overwritten, and nothing unreadable is text."""
    with pytest.raises(UsageError, match="given twice"):
        parse(["a=1", "a=1"])
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "nothing", tmp_path, tmp_path / "bytes"):
        with pytest.raises(UsageError, match="cannot be read"):
            parse([f"a=@{file}"])


@pytest.mark.parametrize(
    ("given", "split"),
    [
        ("prog.py", ("prog.py", "")),
        ("prog.py:main", ("prog.py", "main")),
        ("/a/b.py:fn", ("/a/b.py", "fn")),
        ("pkg.mod", ("pkg.mod", "")),
        ("pkg.mod:fn", ("pkg.mod", "fn")),
        ("module:pkg.mod", ("module:pkg.mod", "")),
        ("module:pkg.mod:fn", ("module:pkg.mod", "fn")),
        ("odd:name.py", ("odd:name.py", "")),
        (":main", (":main", "")),
    ],
)
def test_the_process_follows_a_colon(given: str, split: tuple[str, str]) -> None:
    """A colon in a path is none of it."""
    assert split_target(given) == split
