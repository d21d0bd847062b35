"""A backend of one's own, as ramure's readme sketches it: folders, and commands in the program's own shell."""

import asyncio
import sys
import tempfile
from pathlib import Path

from regrow.ramure import agent, agent_process, done, wait
from regrow.ramure.machines.base import Image, Machine
from regrow.ramure.types import ExecResult


class FolderMachine(Machine):
    def __init__(self, folder: str):
        self.folder = Path(folder)

    async def exec(self, command, *, user="agent", timeout=None):
        process = await asyncio.create_subprocess_shell(
            command, cwd=self.folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(timeout):
            out, err = await process.communicate()
        return ExecResult(process.returncode or 0, out.decode(), err.decode(), command)

    async def write_file(self, path, content):
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    async def read_file(self, path):
        return (self.folder / path).read_bytes()

    async def stop(self):
        print("stopped", self.folder.name)


class FolderImage(Image):
    def __init__(self, above: str):
        self.above = above

    async def spawn(self) -> FolderMachine:
        return FolderMachine(tempfile.mkdtemp(dir=self.above, prefix="machine"))


@agent_process
async def main(above: str) -> str:
    worker = await agent("worker", image=FolderImage(above))

    @worker.on("finish")
    async def on_finish(summary: str) -> str:
        done(summary)
        return "Recorded."

    await worker.send("Do what you can.")
    print("in", (await worker.exec("basename $PWD")).stdout.strip(), type(worker.machine).__name__)
    return await wait()


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1])))
