"""`patched`: changed code that old histories still replay.

Which code a process had when it first came to a place follows from its inbox: an `upgrade` says which patches the build
before it had. So there is nothing to record, and a place that was passed by an older build goes on as it did then.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from regrow_protocol import messages as m

from . import scope
from .errors import NondeterminismError

Moved = list[tuple[int, frozenset[str]]]
"""(input, patches of the build before) of each upgrade, in their order."""


def moved_in(inputs: Iterable[tuple[m.Message | None, int]]) -> Moved:
    """The upgrades among inputs with their sequences."""
    return [(seq, frozenset(message.had)) for message, seq in inputs if isinstance(message, m.Upgrade)]


def patched(id: str) -> bool:  # noqa: A002 - the patch's
    """Whether this place is reached by code that has the patch: write new code under it, and the old one in its else.

    True in new processes, and in those that came to this place only after they had moved to code with the patch.

    Args:
        id: of the patch; a literal text, unique in the program.
    """
    here = scope.current()
    for seq, had in getattr(here, "moved", ()):
        if here.applied < seq:
            return id in had
    return True


def deprecate_patch(id: str) -> None:  # noqa: A002 - the patch's
    """Stands where `patched(id)` stood once only the new code is left.

    Raises:
        NondeterminismError: this process came here before the patch; it still needs the old code.
    """
    if not patched(id):
        raise NondeterminismError(
            f"Process {scope.current().pid} came to the patch {id!r} before that was made",
            hint=f"keep `if patched({id!r}): … else: …` until no such process runs",
        )


def patches_of(files: Iterable[str]) -> tuple[str, ...]:
    """The ids of `patched(…)` and `deprecate_patch(…)` in source files, sorted."""
    found: set[str] = set()
    for file in files:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
        if "patch" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in ("patched", "deprecate_patch") and isinstance(node.args[0].value, str):
                    found.add(node.args[0].value)
    return tuple(sorted(found))
