"""`agent()`: the operations that make an agent, each recorded (ADR 0012).

A machine, where none is given; what it is like; the gateway's enrolment; then the keeper (`keeping`) writes the
harness's files, starts it and waits for it to come. Whoever is cancelled in any of these steps leaves nothing behind:
what has been asked for and comes later is ended when it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from regrow_protocol import agents as wire
from regrow_protocol import subjects
from regrow_protocol.images import AnyImage, LocalImage
from regrow_protocol.machines import MachineRef

from .. import scope
from ..commanding import Asked, taken
from ..errors import InvalidArguments, OutsideProcess
from ..machines.machine import Machine
from ..machines.machine import machine as make_machine
from ..supervision.policy import Backoff, RestartPolicy, checked_policy
from .agent import STARTED, Agent, tool_name
from .errors import AgentError, AgentNameTaken
from .keeping import Care, Charge
from .tools import checked, compared

ToolFunction: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]

NO_HARNESS = "none"
"""The harness of an agent that comes by itself."""
DEFAULT_BACKOFF = Backoff(initial=1.0)


async def agent(
    name: str,
    system_prompt: str = "",
    *,
    model: str = "",
    image: AnyImage | None = None,
    machine: Machine | None = None,
    harness: str = "pi",
    tools: Sequence[ToolFunction] | Mapping[str, ToolFunction] = (),
    env: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    restart: RestartPolicy | None = None,
    restarts: int | None = 3,
    backoff: Backoff = DEFAULT_BACKOFF,
    stall_after: float | None = None,
    start_timeout: float = 60.0,
) -> Agent:
    """Make an agent, and wait until its harness has come to the gateway. It ends with this process.

    This process announces `agent_started` (its data is the `Agent`), and later `agent_restarted`, `agent_stalled`,
    `agent_lost` and `agent_ended`.

    Args:
        name: of it, 1 to 128 characters; no two living agents of a process have the same.
        system_prompt: what it is told first.
        model: as its harness knows it; empty: the harness's own.
        image: what its machine is made from, which is stopped with it. By default what this process was given as
            `machine=`, or `@agent_process(image=…)`, or a folder of the host (`LocalImage()`).
        machine: where it runs instead; it is not stopped with it, and may have several agents.
        harness: `pi`, `claude-code`, `codex`, `opencode`, `command`, or that of a package. `none`: it has no machine
            and comes by itself, with the agent's `url` and `token`.
        tools: that it has from the first: async functions, by their own names or by those of the mapping.
        env: variables of the harness.
        options: the harness's own.
        restart: when a harness that has ended is started again, with its conversation: `permanent` (the default),
            `transient` (the default of `command`: unless it ended with 0), `temporary` (never).
        restarts: so often in a row; None: without limit.
        backoff: how long each waits; after `backoff.steady` seconds a new row begins.
        stall_after: seconds without a turn after which `agent_stalled` is announced.
        start_timeout: seconds that the harness has to come to the gateway, each time.

    Raises:
        AgentNotStarted: the harness has ended, or did not come in time; it shows its last output.
        AgentNameTaken: this process has an agent of that name.
        AgentError, MachineError: it, or its machine, could not be made.
    """
    here = scope.current()
    if here.belongings is None:
        raise OutsideProcess("An agent belongs to a process", hint="call agent() in a function with @agent_process")
    functions = _functions(tools)
    if image is not None and machine is not None:
        raise InvalidArguments("agent() takes an image or a machine, not both")
    if harness == NO_HARNESS and (image is not None or machine is not None):
        raise InvalidArguments(f'an agent with harness="{NO_HARNESS}" comes by itself: it takes no image or machine')
    if start_timeout <= 0 or (stall_after is not None and stall_after <= 0) or (restarts is not None and restarts < 0):
        raise ValueError(
            f"times must be positive, restarts not negative: {start_timeout=}, {stall_after=}, {restarts=}"
        )
    subjects.token(name)
    policy = checked_policy(restart) if restart else "transient" if harness == "command" else "permanent"
    if name in here.belongings.names:
        raise AgentNameTaken(f"This process has an agent {name!r} already", hint="stop() it, or take another name")
    here.belongings.names.add(name)
    charge = Charge(name, Care(policy, restarts, backoff, start_timeout))
    for tool, function in functions.items():
        charge.tools.add(function, tool, None)
    enrol = wire.Enrol(
        name=name,
        harness=harness,
        system_prompt=system_prompt,
        model=model,
        env=dict(env or {}),
        tools=charge.tools.tools,
        stall_after=stall_after,
        turns_every=(here.stall_after or 0.0) / 2,
        options=dict(options or {}),
    )
    try:
        if harness != NO_HARNESS and machine is None:
            wanted = image if image is not None or here.given_image is not None else LocalImage()
            machine = charge.own_machine = await make_machine(wanted, name=name)
        made = await _enrol(here, charge, enrol, machine)
        if machine is not None:
            await charge.registered(1)
    except (Exception, asyncio.CancelledError):
        charge.give_up()
        raise
    here.emit(STARTED, made)
    return made


async def _enrol(here: Any, charge: Charge, enrol: wire.Enrol, machine: Machine | None) -> Agent:
    workdir = (await machine.describe()).workdir if machine is not None else ""
    ref = MachineRef(machine.id, machine.app, machine.node, machine.backend) if machine is not None else None
    replayed = f"{enrol.name} {enrol.harness} ".encode() + compared(enrol.tools)
    args = msgspec.structs.replace(enrol, machine=ref, workdir=workdir)
    asked: Asked = here.command(
        "agent.enrol", wire.enrol_subject(here.app), args, wire.Enrolled, AgentError, compared=replayed
    )

    def undo(late: wire.Enrolled) -> None:
        scope.current().tell("agent.stop", wire.agent_subject(here.app, late.id), wire.Nothing())

    enrolled = await taken(asked, undo)
    made = Agent(enrolled.id, enrol.name, here.app, machine, here.pid)
    charge.enrolled(made, enrolled)
    return made


def _functions(tools: Sequence[ToolFunction] | Mapping[str, ToolFunction]) -> dict[str, ToolFunction]:
    named = dict(tools) if isinstance(tools, Mapping) else {tool_name(each): each for each in tools}
    if len(named) < len(tools):
        raise InvalidArguments("two tools have the same name", hint="tools={'name': function, …}")
    for name, function in named.items():
        checked(function, name, None)
    return named
