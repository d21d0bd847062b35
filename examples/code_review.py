"""An author and a reviewer, two connected agents: the code goes back and forth until it is approved.

    python examples/code_review.py

The process only introduces them to each other; what they say, and the file that they pass on, goes from agent to agent
and stands in the conversation of both (`regrow log reviewer`). Both agents are this very file (`harness="command"`), so
no model is needed: the author forgets a case, the reviewer runs the code and finds it. With `harness="pi"` in place of
`harness="command"` and its option, the same program runs models.
"""

from __future__ import annotations

import asyncio
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

from agent_doors import ask, messages
from regrow import Agent, agent, agent_process, connect, done, emit, wait

PROGRAM = shlex.join([sys.executable, str(Path(__file__).resolve())])
TASK = "Write slug.py with slug(title): small letters and digits, everything else becomes a single hyphen."


@agent_process
async def code_review(task: str) -> str:
    """The code that the reviewer has approved."""
    author = await hire("author", "You write Python. Send your file to the reviewer, and mend what it criticises.")
    reviewer = await hire("reviewer", "You run the code that the author sends, and say what is wrong or approve it.")
    connect(author, reviewer)

    @reviewer.on("criticise")
    async def on_criticise(reason: str) -> str:
        """Write down that the code is not good yet; tell the author, too.

        Args:
            reason: what is wrong, with an example.
        """
        emit("criticised", reason)
        return "Written down."

    @reviewer.on("approve")
    async def on_approve(path: str) -> str:
        """End the review: the code is good.

        Args:
            path: of the file on your machine.
        """
        done((await reviewer.machine.read_file(path)).decode())
        return "Approved."

    await author.send(task)
    return str(await wait())


async def hire(name: str, prompt: str) -> Agent:
    """An agent that is this file."""
    return await agent(name, system_prompt=prompt, harness="command", options={"command": f"{PROGRAM} {name}"})


# The agents -----------------------------------------------------------------------------------------------------------

FIRST = "def slug(title):\n    return title.lower().replace(' ', '-')\n"
SECOND = "import re\n\n\ndef slug(title):\n    return re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')\n"
CASES = {"Agents Fail": "agents-fail", "Fail,  then regrow!": "fail-then-regrow"}


def author() -> None:
    """Write a file, send it; mend it when the reviewer is not content."""
    for message in messages():
        criticised = message["sender"] == "reviewer"
        Path("slug.py").write_text(SECOND if criticised else FIRST)
        ask("/tools/send_file", {"to": "reviewer", "path": "slug.py"})


def reviewer() -> None:
    """Run each file that comes."""
    path = Path("received/author/slug.py")
    for _ in messages():
        slug: Any = runpy.run_path(str(path))["slug"]
        wrong = [f"slug({title!r}) is {slug(title)!r}" for title, right in CASES.items() if slug(title) != right]
        if wrong:
            ask("/tools/criticise", {"reason": wrong[0]})
            ask("/tools/message", {"to": "author", "text": wrong[0]})
        else:
            ask("/tools/approve", {"path": str(path)})


if __name__ == "__main__":
    if sys.argv[1:]:
        {"author": author, "reviewer": reviewer}[sys.argv[1]]()
    else:
        print(asyncio.run(code_review(TASK)))
