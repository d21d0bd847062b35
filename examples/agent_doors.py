"""How the programs of the examples knock at the HTTP door of their agent, with nothing but the standard library."""

from __future__ import annotations

import json
import os
import time
import urllib.request
import uuid
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError


def ask(path: str, data: Any = None) -> Any:
    """Get `path` of the agent's door, or post `data` to it; the JSON of the answer. Raises HTTPError.

    While no gateway is there it tries again, under the same id: a tool that was called before is not called twice.
    """
    request = urllib.request.Request(
        os.environ["REGROW_AGENT_URL"] + path,
        data=json.dumps(data).encode() if data is not None else None,
        headers={
            "Authorization": f"Bearer {os.environ['REGROW_AGENT_TOKEN']}",
            "Regrow-Session": os.environ["REGROW_AGENT_SESSION"],
            "Regrow-Call": uuid.uuid4().hex,
            "Content-Type": "application/json",
        },
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except HTTPError as error:
            if error.code != 503:
                raise
        except (OSError, HTTPException):  # it went away, perhaps in the middle of its answer
            pass
        time.sleep(1)


def messages() -> Iterator[dict[str, Any]]:
    """What the agent is sent, `text` and `sender`, until it is ended."""
    after = 0
    while True:
        heard = ask(f"/messages?after={after}&wait=30")
        after = heard["last"]
        yield from heard["messages"]
