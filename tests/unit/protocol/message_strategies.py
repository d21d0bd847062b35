"""Hypothesis strategies for every message type, made from the types: a new field is tested at once."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec.inspect as mi
from hypothesis import strategies as st
from msgspec import Raw, Struct
from regrow_protocol import agents, endpoints, images, limits, machines, messages, schedules

INPUTS: tuple[type[Struct], ...] = get_args(messages.Input)

BODIES: tuple[type[Struct], ...] = tuple(
    value
    for module in (messages, images, machines, agents, endpoints, schedules, limits)
    for name, value in vars(module).items()
    if isinstance(value, type)
    and issubclass(value, Struct)
    and value.__module__ == module.__name__
    and name not in {"Message", "Request"}  # abstract: no message is just that
)
"""Every concrete struct of the wire, inputs included."""

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


def _of(type_: mi.Type) -> st.SearchStrategy[Any]:
    match type_:
        case mi.RawType():
            return JSON_VALUES.map(lambda value: Raw(json.dumps(value).encode()))
        case mi.StrType():
            return st.text(max_size=30)
        case mi.IntType():
            return st.integers(-(2**63), 2**63 - 1)
        case mi.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case mi.BoolType():
            return st.booleans()
        case mi.NoneType():
            return st.none()
        case mi.BytesType():
            return st.binary(max_size=40)
        case mi.LiteralType():
            return st.sampled_from(type_.values)
        case mi.ListType():
            return st.lists(_of(type_.item_type), max_size=3)
        case mi.DictType():
            return st.dictionaries(_of(type_.key_type), _of(type_.value_type), max_size=3)
        case mi.UnionType():
            return st.one_of([_of(member) for member in type_.types])
        case mi.StructType():
            return _struct(type_)
        case _:
            msg = f"no strategy for {type_!r} yet"
            raise NotImplementedError(msg)


def _struct(type_: mi.StructType) -> st.SearchStrategy[Any]:
    required = {field.name: _of(field.type) for field in type_.fields if field.required}
    optional = {field.name: _of(field.type) for field in type_.fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: type_.cls(**fields))


def message(cls: type[Struct]) -> st.SearchStrategy[Any]:
    """Values of a message type: required fields always, optional ones sometimes."""
    info = mi.type_info(cls)
    assert isinstance(info, mi.StructType)
    return _struct(info)


__all__ = ["BODIES", "INPUTS", "JSON_VALUES", "message"]
