"""What models are told of functions: JSON Schema from annotations, descriptions from docstrings."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

import jsonschema
import msgspec
import pytest
from regrow import ProcessHandle
from regrow.codec import Signature
from regrow.docstrings import parse
from regrow.tool_schema import tool_of


class Colour(enum.Enum):
    """What it looks like."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Point:
    """A place.

    Attributes:
        x, y: metres
            from the corner.
    """

    x: float
    y: float = 0.0
    tags: list[str] = field(default_factory=list)


class Tree(msgspec.Struct):
    value: int
    children: list[Tree] = []


class Options(TypedDict):
    depth: int
    quiet: NotRequired[bool]


@dataclass
class Other:
    z: int


class Documented:
    def __init__(self, documentation: str) -> None:
        self.documentation = documentation


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    schema = msgspec.json.decode(tool_of(function, "tool").schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


def properties(function: Callable[..., Any]) -> dict[str, Any]:
    return schema_of(function)["properties"]


def test_plain_types_have_their_words() -> None:
    """Every type that may travel is told as JSON Schema knows it."""

    async def tool(
        a: str, b: int, c: float, d: bool, e: None, f: list[int], g: dict[str, float], h: tuple[int, str],
        i: tuple[int, ...], j: set[str], k: Literal["x", "y"], w: Colour, m: Level, n: datetime, o: date, p: timedelta,
        q: UUID, r: bytes, s: Path, t: ProcessHandle, u: Any, v,  # type: ignore[no-untyped-def]
    ) -> None: ...  # fmt: skip

    schema = schema_of(tool)
    found = schema["properties"]
    assert [found[name]["type"] for name in "abcde"] == ["string", "integer", "number", "boolean", "null"]
    assert found["f"] == {"type": "array", "items": {"type": "integer"}}
    assert found["g"] == {"type": "object", "additionalProperties": {"type": "number"}}
    assert (found["h"]["minItems"], found["h"]["maxItems"], len(found["h"]["prefixItems"])) == (2, 2, 2)
    assert found["i"] == {"type": "array", "items": {"type": "integer"}}
    assert found["j"]["uniqueItems"] is True
    assert found["k"] == {"enum": ["x", "y"]}
    assert found["w"] == {"$ref": "#/$defs/Colour"}
    assert schema["$defs"]["Colour"]["enum"] == ["blue", "red"]
    assert schema["$defs"]["Level"]["enum"] == [1, 2]
    assert {found[name]["type"] for name in "nopqrs"} == {"string"}
    formats = {name: found[name].get("format") for name in "nopqrs"}
    assert formats == {"n": "date-time", "o": "date", "p": "duration", "q": "uuid", "r": None, "s": "path"}
    assert found["t"]["required"] == ["$process"]
    assert found["u"] == found["v"] == {}
    assert schema["required"] == list("abcdefghijkwmnopqrstuv")
    assert schema["additionalProperties"] is False


def test_what_need_not_be_given_is_not_required() -> None:
    """Defaults are told where JSON has a word for them; None is one of them."""

    async def tool(a: int, b: int = 3, c: str | None = None, d: int | str = "x", *, e: Colour = Colour.RED) -> None: ...

    schema = schema_of(tool)
    assert schema["required"] == ["a"]
    assert schema["properties"]["b"] == {"type": "integer", "default": 3}
    assert schema["properties"]["c"] == {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    assert schema["properties"]["d"]["default"] == "x"
    assert schema["properties"]["e"]["default"] == "red"


def test_a_default_that_cannot_travel_is_left_out() -> None:
    """The parameter is not required all the same."""
    marker = object()

    async def tool(a: Any = marker) -> None: ...

    schema = schema_of(tool)
    assert schema["properties"] == {"a": {}}
    assert "required" not in schema


def test_classes_tell_their_fields() -> None:
    """Dataclasses, Structs (of themselves, too) and TypedDicts stand in `$defs`, with what their docstrings say."""

    async def tool(a: Point, b: Tree, c: Options, d: list[Point]) -> None: ...

    schema = schema_of(tool)
    point = schema["$defs"]["Point"]
    assert point["description"] == "A place."
    assert point["properties"]["x"] == {"type": "number", "description": "metres from the corner."}
    assert point["required"] == ["x"]
    assert schema["$defs"]["Tree"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Tree"}
    assert schema["$defs"]["Options"]["required"] == ["depth"]
    assert schema["properties"]["d"] == {"type": "array", "items": {"$ref": "#/$defs/Point"}}


def test_what_cannot_be_told_apart_is_still_described() -> None:
    """A union of classes, which arrives as plain JSON, names its members; what nobody can read is anything."""

    async def tool(a: Point | Other, b: complex, c: Callable[[], int], d: Point | complex) -> None: ...

    schema = schema_of(tool)
    assert schema["properties"]["a"] == {"anyOf": [{"$ref": "#/$defs/Point"}, {"$ref": "#/$defs/Other"}]}
    assert schema["properties"]["b"] == schema["properties"]["c"] == {}
    assert set(schema["$defs"]) == {"Point", "Other"}


def test_annotations_may_describe_and_bound() -> None:
    """A text in `Annotated` describes, msgspec's Meta bounds; the docstring comes first."""

    async def tool(
        a: Annotated[int, "how many"],
        b: Annotated[int, msgspec.Meta(ge=1, le=9, description="a digit")],
        c: Annotated[str, Documented("as of PEP 727")],
        d: Annotated[str, "the annotation's"],
    ) -> None:
        """Do it.

        Args:
            d: the docstring's.
        """

    found = properties(tool)
    assert found["a"] == {"type": "integer", "description": "how many"}
    assert found["b"] == {"type": "integer", "minimum": 1, "maximum": 9, "description": "a digit"}
    assert found["c"]["description"] == "as of PEP 727"
    assert found["d"]["description"] == "the docstring's."


def test_rest_parameters() -> None:
    """`**kwargs` are further properties, `*args` is an array."""

    async def tool(a: int, *more: str, **rest: int) -> None:
        """Do it.

        Args:
            *more: further ones.
        """

    schema = schema_of(tool)
    assert schema["additionalProperties"] == {"type": "integer"}
    assert schema["properties"]["more"] == {
        "type": "array", "items": {"type": "string"}, "description": "further ones.",
    }  # fmt: skip
    assert schema["required"] == ["a"]

    async def anything(**rest: Any) -> None: ...

    assert "additionalProperties" not in schema_of(anything)


def test_a_name_that_only_type_checkers_know_harms_nothing_else() -> None:
    """The parameter takes anything; the others are as they are."""

    async def tool(a: Nowhere, b: int) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert properties(tool) == {"a": {}, "b": {"type": "integer"}}


GOOGLE = """Look for it.

    Everywhere, that is.

    Args:
        what: what to look for,
            in words.
        deep (int, optional): how deep: levels.
        **more: other things.

    Returns:
        How many
        were found.

    Raises:
        ValueError: never.
    """
NUMPY = """Look for it.

    Everywhere, that is.

    Parameters
    ----------
    what : str
        what to look for,
        in words.
    deep : int, optional
        how deep: levels.
    **more
        other things.

    Returns
    -------
    int
        How many
        were found.

    Raises
    ------
    ValueError
        never.
    """
REST = """Look for it.

    Everywhere, that is.

    :param what: what to look for,
        in words.
    :type what: str
    :param int deep: how deep: levels.
    :param more: other things.
    :returns: How many
        were found.
    :raises ValueError: never.
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, REST], ids=["google", "numpy", "rest"])
def test_docstrings_of_all_styles(text: str) -> None:
    """Each style tells the same."""
    doc = parse(text)
    assert doc.text == "Look for it.\n\nEverywhere, that is."
    assert doc.parameters == {
        "what": "what to look for, in words.", "deep": "how deep: levels.", "more": "other things.",
    }  # fmt: skip
    assert doc.returns == "How many were found."


def test_a_docstring_of_no_style_is_the_description() -> None:
    """Nothing of it is lost: a colon makes no section, nor does indentation."""
    text = "Note: this is it.\n\n    an example:\n        indented\n\nThe end:\n"
    assert parse(text).text == "Note: this is it.\n\n    an example:\n        indented\n\nThe end:"
    assert parse(None).text == ""


def test_the_tool_tells_what_the_function_returns() -> None:
    """The description has the text and the result, not the parameters."""

    async def tool(what: str) -> int:
        return 0

    tool.__doc__ = GOOGLE
    described = tool_of(tool, "look").description
    assert described == "Look for it.\n\nEverywhere, that is.\n\nReturns: How many were found."


def test_the_version_tells_tools_apart() -> None:
    """It is the same for the same tool, and another one for whatever differs."""

    async def tool(a: int) -> None:
        """One."""

    async def other(a: str) -> None:
        """One."""

    assert tool_of(tool, "t") == tool_of(tool, "t")
    assert len({tool_of(tool, "t").version, tool_of(tool, "u").version, tool_of(other, "t").version}) == 3


def test_schemas_accept_what_signatures_decode() -> None:
    """What fits the schema reaches the function, and what does not is refused by both."""

    async def tool(a: Point, b: list[Colour], c: int | None = None, **rest: str) -> None: ...

    validator = jsonschema.Draft202012Validator(schema_of(tool))
    signature = Signature(tool, "tool()")
    good = {"a": {"x": 1, "y": 2}, "b": ["red"], "c": None, "d": "x"}
    validator.validate(good)
    assert signature.decode(msgspec.json.encode(good)) == ([Point(1, 2), [Colour.RED], None], {"d": "x"})
    for bad in ({}, {"a": {"y": 1}, "b": []}, {"a": {"x": 1}, "b": ["green"]}, {"a": {"x": 1}, "b": [], "d": [1]}):
        assert list(validator.iter_errors(bad))
        with pytest.raises(TypeError):
            signature.decode(msgspec.json.encode(bad))
