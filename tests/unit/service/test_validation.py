"""Arguments against JSON Schema: what is wrong is said so that a model can put it right."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw
from regrow_protocol.agents import Tool
from regrow_service.validation import InvalidArguments, check, takes

ITEM = {
    "type": "object",
    "properties": {"x": {"type": "number"}, "note": {"type": "string"}},
    "required": ["x"],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {"type": "string", "minLength": 2},
        "n": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "mode": {"enum": ["a", "b"]},
        "items": {"type": "array", "items": {"$ref": "#/$defs/Item"}, "maxItems": 3},
        "by": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
    "required": ["spec"],
    "additionalProperties": False,
    "$defs": {"Item": ITEM},
}


def tool(schema: Any = SCHEMA) -> Tool:
    return Tool("add", schema=Raw(msgspec.json.encode(schema)))


@pytest.mark.parametrize(
    "args",
    [b'{"spec":"ab"}', b'{"spec":"ab","n":null,"mode":"b","items":[{"x":1.5}],"by":{"z":1}}', b' {"spec":"\\u00e9a"}'],
)
def test_what_fits_passes(args: bytes) -> None:
    check(tool(), args)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (b"{}", "add: argument 'spec' is missing"),
        (b'{"spec":"a"}', "argument 'spec' must be at least 2 characters long, not \"a\""),
        (b'{"spec":"ab","n":"x"}', "argument 'n' must be an integer or null, not \"x\""),
        (b'{"spec":"ab","n":1.5}', "argument 'n' must be an integer or null, not 1.5"),
        (b'{"spec":"ab","mode":"c"}', 'argument \'mode\' must be one of "a", "b", not "c"'),
        (b'{"spec":"ab","z":1}', "there is no argument 'z'"),
        (b'{"spec":"ab","items":[{"x":1},{}]}', "argument 'items[1]' lacks 'x'"),
        (b'{"spec":"ab","items":[{"x":"1"}]}', "argument 'items[0].x' must be a number, not \"1\""),
        (b'{"spec":"ab","items":[{"x":1,"y":2}]}', "argument 'items[0]' has an unknown field 'y'"),
        (b'{"spec":"ab","items":[7]}', "argument 'items[0]' must be an object of x, [note], not 7"),
        (b'{"spec":"ab","items":[{"x":1},{"x":1},{"x":1},{"x":1}]}', "argument 'items' must be an array of at most 3"),
        (b'{"spec":"ab","by":{"z":"1"}}', "argument 'by.z' must be an integer, not \"1\""),
        (b'{"spec":7,"n":"a","mode":"c","items":1,"by":1}', "; and 2 more"),
        (b'"spec"', 'the arguments must be a JSON object, not "spec"'),
        (b"nope", "the arguments are no JSON that can be read"),
        (b"[" * 100_000, "the arguments are no JSON that can be read"),
        (b'{"spec":"' + b"x" * 10, "the arguments are no JSON that can be read"),
    ],
)
def test_what_does_not_is_explained(args: bytes, says: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        check(tool(), args)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 800


def test_the_hint_says_what_it_takes() -> None:
    """Every parameter with its kind; a long wrong value is cut."""
    with pytest.raises(InvalidArguments) as caught:
        check(tool(), msgspec.json.encode({"spec": ["x" * 1000]}))
    assert caught.value.hint.startswith("it takes spec (a string), n (an integer or null, optional), mode (one of")
    assert len(caught.value.message) < 150
    assert takes(tool({"type": "object"})) == "it takes no arguments"
    assert takes(tool({"type": "object", "properties": {"any": {}}})) == "it takes any (anything, optional)"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": "object", "properties": {"a": {"$ref": "https://example.org/schema.json"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/Nothing"}}},
    ],
)
def test_a_schema_that_cannot_be_used(schema: Any) -> None:
    """It refuses; nothing is fetched from anywhere."""
    with pytest.raises(InvalidArguments, match="its schema cannot be used"):
        check(tool(schema), b'{"a":1}')
