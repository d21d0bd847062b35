"""Time spans on the command line."""

from __future__ import annotations

import re

from .errors import UsageError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """Seconds of a time span: `90`, `90s`, `30m`, `12h`, `7d`.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise UsageError(f"{text!r} is no time span", hint="as 90s, 30m, 12h or 7d")
    return float(found[1]) * _UNITS[found[2]]
