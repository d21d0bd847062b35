"""How the programs of the examples knock at the HTTP door of their agent, with nothing but the standard library."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from typing import Any


def ask(path: str, data: Any = None) -> Any:
    """Get `path` of the agent's door, or post `data` to it; the JSON of the answer. Raises HTTPError."""
    request = urllib.request.Request(
        os.environ["REGROW_AGENT_URL"] + path,
        data=json.dumps(data).encode() if data is not None else None,
        headers={
            "Authorization": f"Bearer {os.environ['REGROW_AGENT_TOKEN']}",
            "Regrow-Session": os.environ["REGROW_AGENT_SESSION"],
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def messages() -> Iterator[dict[str, Any]]:
    """What the agent is sent, `text` and `sender`, until it is ended."""
    after = 0
    while True:
        heard = ask(f"/messages?after={after}&wait=30")
        after = heard["last"]
        yield from heard["messages"]
