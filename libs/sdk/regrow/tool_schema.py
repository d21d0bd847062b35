"""What a function looks like to a model, or to anybody outside: its `Tool`, made of annotations and docstring.

The schema says what `codec.Signature` takes: JSON Schema 2020-12 of an object with a property for each parameter.
msgspec writes the schemas of types; classes that it describes keep their own docstring, and the descriptions of their
fields from it. A parameter is described by the docstring of the function, or in its annotation:
`Annotated[str, "what to look for"]`. Where an annotation can be read by nobody, any JSON is right.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from datetime import datetime
from hashlib import blake2b
from pathlib import PurePath
from typing import Annotated, Any, Union

import msgspec
from msgspec import Raw
from regrow_protocol.agents import Tool
from regrow_protocol.errors import RegrowError

from .codec import Reference, Signature, to_raw
from .docstrings import parse

_REFERENCE = {
    "type": "object",
    "properties": {"$process": {"type": "string"}},
    "required": ["$process"],
    "description": "a process",
}


def tool_of(function: Callable[..., Any], name: str) -> Tool:
    """The tool that calls `function` with what `codec.Signature.decode` takes."""
    doc = parse(inspect.getdoc(function))
    description = doc.text
    if doc.returns:
        description = f"{description}\n\nReturns: {doc.returns}".strip()
    schema = Raw(msgspec.json.encode(_schema(Signature(function, f"{name}()"), doc.parameters)))
    digest = blake2b(msgspec.json.encode([name, description, schema]), digest_size=8)
    return Tool(name, description, schema, digest.hexdigest())


def _schema(signature: Signature, said: dict[str, str]) -> dict[str, Any]:
    parameters = signature.parameters
    schemas, defs = _of_types([_with_format(hint) for _, hint in parameters])
    properties: dict[str, Any] = {}
    required: list[str] = []
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    rest: Any = False
    for (parameter, hint), made in zip(parameters, schemas, strict=True):
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            rest = made
            continue
        about = said.get(parameter.name) or _said_in(hint)
        described = {**made, "description": about} if about else dict(made)
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            described = {"type": "array", "items": made} | ({"description": about} if about else {})
        elif parameter.default is inspect.Parameter.empty:
            required.append(parameter.name)
        elif (default := _default(parameter.default)) is not None:
            described["default"] = default
        properties[parameter.name] = described
    if required:
        schema["required"] = required
    if rest != {}:
        schema["additionalProperties"] = rest
    if defs:
        schema["$defs"] = defs
    return schema


def _default(value: Any) -> Raw | None:
    try:
        return to_raw(value)
    except RegrowError:
        return None


def _said_in(hint: Any) -> str:
    """The description that an annotation holds: a text, or what has `documentation` (PEP 727)."""
    for meta in getattr(hint, "__metadata__", ()):
        text = meta if isinstance(meta, str) else getattr(meta, "documentation", None)
        if isinstance(text, str):
            return text
    return ""


# Types ----------------------------------------------------------------------------------------------------------------

_DateTime = Annotated[datetime, msgspec.Meta(extra_json_schema={"format": "date-time"})]


def _with_format(type_: Any) -> Any:
    """msgspec tells no format of a datetime that may have no zone, and a model would write any text."""
    if type_ is datetime:
        return _DateTime
    return Union[tuple(map(_with_format, typing.get_args(type_)))] if _is_union(type_) else type_  # noqa: UP007 - made


def _of_types(types: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Schemas of types, and of the classes that they refer to."""
    try:
        schemas, defs = _components(types)
    except (TypeError, NameError):  # one of them is beyond msgspec: the others are not
        schemas, defs = [], {}
        for type_ in types:
            made, more = _of_type(type_)
            schemas.append(made)
            defs |= more
    return schemas, {name: _described(definition) for name, definition in defs.items()}


def _of_type(type_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        (made,), defs = _components([type_])
    except (TypeError, NameError):
        return _of_union(type_)
    return made, defs


def _of_union(type_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of members that cannot be told apart, which arrive as plain JSON; any JSON, where it is no union."""
    if typing.get_origin(type_) is Annotated:
        return _of_type(type_.__origin__)
    members = typing.get_args(type_) if _is_union(type_) else ()
    made: list[dict[str, Any]] = []
    defs: dict[str, Any] = {}
    for member in members:
        schema, more = _of_type(member)
        made.append(schema)
        defs |= more
    return ({"anyOf": made}, defs) if made and {} not in made else ({}, {})


def _is_union(type_: Any) -> bool:
    return typing.get_origin(type_) in (typing.Union, type(int | str))


def _components(types: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    schemas, defs = msgspec.json.schema_components(types, schema_hook=_custom, ref_template="#/$defs/{name}")
    return [_plain(schema) for schema in schemas], {name: _plain(schema) for name, schema in defs.items()}


def _custom(type_: type) -> dict[str, Any]:
    if isinstance(type_, type) and issubclass(type_, Reference):
        return _REFERENCE
    if isinstance(type_, type) and issubclass(type_, PurePath):
        return {"type": "string", "format": "path"}
    return {}


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it: what msgspec leaves to the encoder (defaults, members of enums)."""
    return msgspec.json.decode(msgspec.json.encode(schema, enc_hook=str))


def _described(definition: dict[str, Any]) -> dict[str, Any]:
    """A class with the descriptions of its fields taken from its docstring."""
    doc = parse(definition.get("description"))
    if doc.text:
        definition["description"] = doc.text
    else:
        definition.pop("description", None)
    for name, schema in definition.get("properties", {}).items():
        if name in doc.parameters:
            schema.setdefault("description", doc.parameters[name])
    return definition
