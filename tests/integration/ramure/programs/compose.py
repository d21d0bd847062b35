"""How ramure's readme composes processes; the processes that it leaves out are stood in for."""

import asyncio

from regrow.ramure import agent_process, bubble, emit, spawn, wait


@agent_process
async def write_code(what: str) -> str:
    return f"def f(): ...  # {what}"


@agent_process
async def review_code(code: str) -> str:
    return f"fine: {code}"


@agent_process
async def research(topic: str) -> str:
    return f"{topic} is a language"


@agent_process
async def flaky_task(what: str, attempt: int = 1) -> str:
    if attempt < 3:
        raise RuntimeError("not in the mood")
    return f"{what}, done in attempt {attempt}"


@agent_process
async def one_after_the_other():
    code = await write_code("fibonacci function")
    review = await review_code(code)
    assert review == f"fine: {code}"
    return code


@agent_process
async def at_once():
    results = await asyncio.gather(
        research("Rust"),
        research("Python"),
    )
    return results


@agent_process
async def again():
    attempt = 1
    handle = spawn(flaky_task, "write a haiku")
    while True:
        async for event in handle.events:
            if event.type == "failed":
                attempt += 1
                handle = spawn(flaky_task, "write a haiku", attempt)
            elif event.type == "done":
                return event.data


@agent_process
async def run_task(tid: str, spec: str) -> str:
    emit("began", {"spec": spec})
    return spec.upper()


@agent_process
async def worker_pool(specs: list[str]) -> None:
    for i, spec in enumerate(specs):
        tid = f"t{i:04d}"
        bubble(spawn(run_task, tid, spec), source=tid)
    await wait()


@agent_process
async def observed():
    seen = []
    pool = spawn(worker_pool, ["one", "two"])
    async for event in pool.events:
        if event.source and event.type in ("began", "done"):
            seen.append(f"{event.source} {event.type} {event.data}")
        if len(seen) == 4:
            pool.cancel()
            return sorted(seen)


@agent_process
async def main():
    return [await one_after_the_other(), *await at_once(), await again(), *await observed()]


if __name__ == "__main__":
    for each in asyncio.run(main()):
        print(each)
