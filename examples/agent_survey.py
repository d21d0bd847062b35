"""The survey of `survey.py`, by agents: each has its share of the packages measured, and says what it has found.

    python examples/agent_survey.py MODEL [FOLDER]

`MODEL` is one that pi knows, as `anthropic/claude-sonnet-4-5`. A tool call starts the same `worker` that the survey
without agents starts, so the table is the same. Kill the host while it runs: the agents wait, and no call is lost.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field

from regrow import AgentLoss, ExecutionFailed, agent, agent_process, bubble, done, emit, fail, spawn, step, wait
from survey import Package, PackageReport, find_packages, ranked, table, worker

TASK = "Measure each of these packages, several at a time if you can, and then report:"


@dataclass
class Choice:
    """What the agents run, as `agent()` takes it."""

    model: str
    harness: str = "pi"
    env: dict[str, str] = field(default_factory=dict[str, str])
    options: dict[str, str] = field(default_factory=dict[str, str])


@agent_process
async def surveyor(name: str, packages: list[Package], choice: Choice) -> list[PackageReport]:
    """One agent with some packages."""
    paths = {package.name: package.path for package in packages}
    measuring: dict[str, asyncio.Task[PackageReport]] = {}
    me = await agent(
        name,
        "You survey Python packages. Use no tools but measure and report.",
        model=choice.model,
        harness=choice.harness,
        env=choice.env,
        options=choice.options,
        restarts=1,
        stall_after=60,
    )

    @me.on
    async def measure(package: str) -> PackageReport:
        """Count a package's files, lines, functions and TODOs, find its longest function and the files that are broken.

        Args:
            package: one of yours, by its name.
        """
        if package not in paths:
            raise ValueError(f"{package} is none of your packages")
        if package not in measuring:
            measuring[package] = asyncio.create_task(measured(package, paths[package]))
        return await measuring[package]

    @me.on
    async def report(finding: str) -> str:
        """End your work, when all of your packages are measured.

        Args:
            finding: what is remarkable about them, in one sentence.
        """
        if missing := [package for package in paths if package not in measuring]:
            raise ValueError(f"You have not measured {', '.join(missing)}")
        emit("finding", finding)
        done([await each for each in measuring.values()])
        return "Thank you."

    @me.on_lost
    def lost(loss: AgentLoss) -> None:
        fail(f"{name} is lost: {loss.reason}\n{loss.output}")

    await me.send("\n".join([TASK, "", *(f"- `{package}`" for package in paths)]))
    return await wait()


async def measured(name: str, path: str) -> PackageReport:
    """What a worker says of a package, in a process of its own."""
    handle = spawn(worker, name, path)
    bubble(handle, source=name)
    try:
        return await handle
    except ExecutionFailed as error:
        return PackageReport(name, broken=[f"not surveyed: {error.reason}"])


@agent_process
async def agent_survey(folder: str, choice: Choice, agents: int = 4) -> list[PackageReport]:
    """The packages of a folder, the largest first; each agent has its share of them."""
    packages = await step(find_packages, folder)
    emit("packages", {"count": len(packages)})
    crew = [
        spawn(surveyor, f"surveyor-{number + 1}", packages[number::agents], choice)
        for number in range(min(agents, len(packages)))
    ]
    for each in crew:
        bubble(each)
    return ranked([report for reports in await asyncio.gather(*crew) for report in reports])


if __name__ == "__main__":
    model, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    print(table(asyncio.run(agent_survey(folder, Choice(model)))))
