"""Process types that are functions inside other functions (`regrow.ramure`): they exist in one interpreter only.

Their names tell: no other host can find them. There an `absent` type stands in, so that such a process can be folded to
its end: it fails with `host_lost`, and whoever waits for it hears of that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from .errors import HostLost

if TYPE_CHECKING:
    from .definition import ProcessType

MARK = ".<locals>."

here: WeakValueDictionary[str, ProcessType[Any, Any]] = WeakValueDictionary()
"""Those of this interpreter, by name."""

_INTERPRETER = os.urandom(4).hex()
_count = 0


def name_for(qualname: str) -> str:
    """A name that no function of another interpreter, nor another closure of this one, has."""
    global _count
    _count += 1
    return f"{qualname}#{_INTERPRETER}.{_count}"


def find(types: Mapping[str, ProcessType[Any, Any]], name: str) -> ProcessType[Any, Any] | None:
    """The type `name` of a host with `types`."""
    if (found := types.get(name)) is None and MARK in name:
        return here.get(name) or absent(name)
    return found


def absent(name: str) -> ProcessType[Any, Any]:
    """What stands in for a type of an interpreter that is gone."""
    from .definition import ProcessType

    async def lost(**_arguments: Any) -> None:
        raise HostLost(
            f"{name.partition('#')[0]} is a function inside another one, and the program that it belonged to is gone",
            hint="what shall survive its program is a function at the top of a module",
        )

    return ProcessType(lost, name=name, resume="restart", max_restarts=0, nested=True)
