"""Arguments of tools and endpoints, checked against their JSON Schema before a process sees them.

Who calls is often a model, so an error names the argument, what it was and what is allowed, and ends with all that the
tool takes. Schemas are never fetched from anywhere: a reference leads inside the schema, or is an error.

Needs `jsonschema` (extras `registry` and `gateway`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from msgspec import Raw
from referencing import Registry
from referencing.exceptions import Unresolvable
from regrow_protocol.agents import Tool
from regrow_protocol.errors import RegrowError

SHOWN = 3
"""Mistakes that one error tells."""
MAX_VALUE = 60
"""Characters of a wrong value that it shows."""

_NAMES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
    "null": "null",
}
_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters long",
    "maxLength": "at most {} characters long",
    "minItems": "an array of at least {}",
    "maxItems": "an array of at most {}",
    "pattern": "a string that matches {}",
}


class InvalidArguments(RegrowError):
    """Arguments that the schema does not allow."""

    code = "invalid-arguments"


def check(tool: Tool, args: bytes | Raw | dict[str, Any]) -> None:
    """Return if a tool may be called with `args`.

    Args:
        tool: whose schema is looked at.
        args: JSON object of the arguments by name, or what it was decoded to.

    Raises:
        InvalidArguments: it may not; the text says why.
    """
    try:
        given: Any = args if isinstance(args, dict) else msgspec.json.decode(args)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidArguments(f"{tool.name}: the arguments are no JSON that can be read: {error}") from error
    if not isinstance(given, dict):
        raise InvalidArguments(
            f"{tool.name}: the arguments must be a JSON object, not {_shown(given)}", hint=takes(tool)
        )
    try:
        mistakes = sorted(
            _validator(bytes(tool.schema)).iter_errors(given), key=lambda error: list(map(str, error.path))
        )
    except (SchemaError, Unresolvable, msgspec.MsgspecError) as error:
        raise InvalidArguments(f"{tool.name}: its schema cannot be used: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise InvalidArguments(f"{tool.name}: the arguments are nested too deeply") from error
    if mistakes:
        told = dict.fromkeys(text for mistake in mistakes[:SHOWN] for text in _texts(mistake))
        more = f"; and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
        raise InvalidArguments(f"{tool.name}: {'; '.join(told)}{more}", hint=takes(tool))


def problem(tool: Tool) -> str:
    """What is wrong with a tool's schema, in one line; empty where nothing is."""
    try:
        schema = msgspec.json.decode(tool.schema)
        if not isinstance(schema, dict) or schema.get("type", "object") != "object":
            return "it must be an object, of the type object"
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return error.message.splitlines()[0]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def takes(tool: Tool) -> str:
    """What a tool takes, in one line: `it takes spec (a string), priority (an integer, optional)`."""
    try:
        schema = msgspec.json.decode(tool.schema, type=dict[str, Any])
    except msgspec.MsgspecError:
        return ""
    needed = schema.get("required", [])
    each = [
        f"{name} ({_kind(known, schema)}{'' if name in needed else ', optional'})"
        for name, known in schema.get("properties", {}).items()
    ]
    return f"it takes {', '.join(each)}" if each else "it takes no arguments"


@lru_cache(maxsize=1024)
def _validator(schema: bytes) -> Draft202012Validator:
    decoded = msgspec.json.decode(schema)
    Draft202012Validator.check_schema(decoded)
    nothing: Registry[Any] = Registry()  # the one that is there by default asks the network
    return Draft202012Validator(decoded, registry=nothing)


def _texts(mistake: Any) -> Iterable[str]:
    where = _where(mistake)
    if mistake.validator == "required":
        for name in mistake.validator_value:
            if name not in mistake.instance:
                yield f"{where} lacks {name!r}" if where else f"argument {name!r} is missing"
    elif mistake.validator in ("additionalProperties", "unevaluatedProperties"):
        for name in mistake.instance.keys() - mistake.schema.get("properties", {}).keys():
            yield f"{where} has an unknown field {name!r}" if where else f"there is no argument {name!r}"
    else:
        schema: Any = mistake.schema
        bound = _BOUNDS.get(str(mistake.validator))
        allowed = bound.format(mistake.validator_value) if bound else _kind(schema, _root(mistake))
        yield f"{where or 'the arguments'} must be {allowed}, not {_shown(mistake.instance)}"


def _root(mistake: Any) -> Mapping[str, Any]:
    while mistake.parent is not None:
        mistake = mistake.parent
    return mistake.schema if isinstance(mistake.schema, dict) else {}


def _where(mistake: Any) -> str:
    """`argument 'items[2].name'`; empty for the arguments as a whole."""
    path = ""
    for part in mistake.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return f"argument {path!r}" if path else ""


def _kind(schema: Any, root: Mapping[str, Any], depth: int = 0) -> str:
    """What a schema allows, in words."""
    if not isinstance(schema, dict) or depth > 3:
        return "anything"
    if isinstance(reference := schema.get("$ref"), str):
        name = reference.rpartition("/")[2]
        return _kind(root.get("$defs", {}).get(name, {}), root, depth + 1)
    if "enum" in schema:
        return f"one of {', '.join(_shown(value) for value in schema['enum'])}"
    if "const" in schema:
        return _shown(schema["const"])
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_kind(each, root, depth + 1) for each in alternatives))
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds == ["array"] and isinstance(items := schema.get("items"), dict) and items:
        return f"an array of: {_kind(items, root, depth + 1)}"
    if kinds == ["object"] and (fields := schema.get("properties")):
        needed = schema.get("required", [])
        return f"an object of {', '.join(name if name in needed else f'[{name}]' for name in fields)}"
    return " or ".join(_NAMES.get(kind, kind) for kind in kinds) or "anything"


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"
