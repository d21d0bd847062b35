"""Find the commit that broke something, by testing several commits at a time on forks of one machine.

    python examples/bisect.py REPOSITORY --good v1.0 --bad HEAD --test 'make test'

The repository goes to a machine once; forks of it share that work. Each round tests a few commits between the last good
and the first bad one, each on its own fork, and keeps the interval in which the verdict changes: with three forks a
round quarters it. Kill this program, or the host, at any moment: `regrow resume PID` goes on with the same machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from regrow import DockerImage, LocalImage, Machine, RegrowError, agent_process, emit, fail, machine, step


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        commit: the first bad one.
        subject: its message's first line.
        rounds: of tests at the same time.
        tested: commits in all.
    """

    commit: str
    subject: str
    rounds: int
    tested: int


def bundle(repository: str) -> str:
    """All of a repository's history in one file; its path."""
    folder = tempfile.mkdtemp(prefix="regrow-bisect-")
    target = str(Path(folder) / "history.bundle")
    subprocess.run(["git", "-C", repository, "bundle", "create", "-q", target, "--all", "HEAD"], check=True)
    return target


def discard(path: str) -> None:
    """Remove what `bundle` made."""
    shutil.rmtree(Path(path).parent, ignore_errors=True)


@agent_process
async def bisect(repository: str, good: str, bad: str, test: str, forks: int = 3, docker: str = "") -> Verdict:
    """The first commit after `good`, up to `bad`, for which `test` fails."""
    box = await machine(DockerImage(docker) if docker else LocalImage(), name="bisect")
    history = await step(bundle, repository)
    await box.put(history, "history.bundle")
    await step(discard, history)
    await must(box, "git clone -q history.bundle work")
    commits = (await must(box, ["git", "rev-list", "--reverse", f"{good}..{bad}"], cwd="work")).split()
    if not commits:
        fail(f"there are no commits between {good} and {bad}", retryable=False)
    boxes = [box, *(await box.fork(forks - 1) if forks > 1 else [])]
    low, high = -1, len(commits) - 1  # commits[low] is good (-1: `good` itself), commits[high] is bad
    rounds = tested = 0
    while high - low > 1:
        width = high - low
        picks = sorted({low + max(1, width * (i + 1) // (len(boxes) + 1)) for i in range(min(len(boxes), width - 1))})
        verdicts = await asyncio.gather(*(is_good(b, commits[i], test) for b, i in zip(boxes, picks, strict=False)))
        rounds, tested = rounds + 1, tested + len(picks)
        for pick, well in zip(picks, verdicts, strict=True):
            if not well:
                high = pick
                break
            low = pick
        emit("narrowed", {"left": high - low, "round": rounds})
    subject = await must(box, ["git", "log", "-1", "--format=%s", commits[high]], cwd="work")
    return Verdict(commits[high], subject.strip(), rounds, tested)


async def is_good(box: Machine, commit: str, test: str) -> bool:
    """Whether the test passes at a commit."""
    await must(box, ["git", "checkout", "-q", "--force", commit], cwd="work")
    await must(box, ["git", "clean", "-qfdx"], cwd="work")
    return (await box.exec(test, cwd="work", timeout=600)).ok


async def must(box: Machine, command: str | list[str], *, cwd: str = "") -> str:
    """What a command writes; it must succeed."""
    result = await box.exec(command, cwd=cwd, env={"GIT_CONFIG_COUNT": "0"})
    if not result.ok:
        raise RuntimeError(f"{result.command}: {result.stderr.strip() or result.exit_code}")
    return result.stdout


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("repository", nargs="?", default=".")
    parser.add_argument("--good", required=True, help="a commit for which the test passes")
    parser.add_argument("--bad", default="HEAD", help="a commit for which it fails")
    parser.add_argument("--test", required=True, help="a shell command; 0 means good")
    parser.add_argument("--forks", type=int, default=3, help="commits to test at a time")
    parser.add_argument("--docker", default="", help="an image with git, instead of folders of this computer")
    args = parser.parse_args()
    repository = str(Path(args.repository).resolve())
    try:
        found = asyncio.run(bisect(repository, args.good, args.bad, args.test, args.forks, args.docker))
    except RegrowError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
