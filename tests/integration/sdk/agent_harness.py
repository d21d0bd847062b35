"""A program that is an agent: it hears messages and calls tools over plain HTTP. Its argument says how it behaves.

`echo`: calls `note` with each message once, over all its sessions; `finish: TEXT` calls `finish`. `broken`: ends at
once with 3. `mute`: never comes. `dying`: comes, and ends with 5.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def ask(path: str, data: Any = None, call: str = "") -> Any:
    """Knock until somebody opens."""
    request = urllib.request.Request(
        os.environ["REGROW_AGENT_URL"] + path,
        data=json.dumps(data).encode() if data is not None else None,
        headers={
            "Authorization": f"Bearer {os.environ['REGROW_AGENT_TOKEN']}",
            "Regrow-Session": os.environ["REGROW_AGENT_SESSION"],
            "Content-Type": "application/json",
            **({"Regrow-Call": call} if call else {}),
        },
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.05)


def echo() -> None:
    """Until it is killed."""
    Path("pid").write_text(str(os.getpid()))
    known = Path("after")
    after = int(known.read_text()) if known.exists() else 0
    while True:
        heard = ask(f"/messages?after={after}&wait=30")
        for message in heard["messages"]:
            text = message["text"]
            if text.startswith("finish: "):
                ask("/tools/finish", {"summary": text.removeprefix("finish: ")}, "f")
            else:
                ask("/tools/note", {"text": text}, str(message["seq"]))
            after = message["seq"]
            known.write_text(str(after))


if __name__ == "__main__":
    match sys.argv[1]:
        case "echo":
            echo()
        case "broken":
            sys.stderr.write("no such thing here\n")
            sys.exit(3)
        case "mute":
            signal.pause()
        case _:
            ask("/tools")
            sys.exit(5)
