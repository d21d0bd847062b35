"""Agents without a server: what gateway, machine-manager and harnesses say to the folds of a `World`.

Commands are answered as the services answer them, at once; a harness runs until a test ends it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fold_world import World
from msgspec import UNSET, Raw
from regrow.codec import to_raw
from regrow_protocol import agents as wire
from regrow_protocol import endpoints, ids
from regrow_protocol import machines as machine_wire
from regrow_protocol import messages as m
from regrow_protocol.messages import Failure

ANSWERED = {"tools": None, "stop": None, "lost": None, "connect": None, "write": None, "detach": None}


class Services:
    """Of one world.

    Attributes:
        hold: names of commands that are not answered.
        fail: name of a command → what it is answered.
        log: (service, name, arguments) of all commands, in their order.
        running: harnesses, by the id of their `exec`.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.hold: set[str] = set()
        self.fail: dict[str, Failure] = {}
        self.log: list[tuple[str, str, Any]] = []
        self.agents: dict[str, tuple[str, wire.Enrol]] = {}
        self.running: dict[str, m.Command] = {}
        self.comes = True
        """Whether harnesses come to the gateway."""
        self.absent: set[str] = set()
        """Names of agents whose harnesses do not."""
        self.pages: list[wire.Page] = []
        self._answered = 0
        self._calls = 0
        self._sessions: dict[str, int] = {}

    def settle(self, *, timers: bool = False, until: float | None = None) -> None:
        """Deliver and answer until nothing is left."""
        while True:
            self.world.settle(timers=timers, until=until)
            if self._answered == len(self.world.commands):
                return
            subject, command = self.world.commands[self._answered]
            self._answered += 1
            self._take(subject, command)

    def _take(self, subject: str, command: m.Command) -> None:
        service = subject.split(".")[2]
        known = {"agent": wire.ARGUMENTS, "machine": machine_wire.ARGUMENTS, "registry": endpoints.ARGUMENTS}[service]
        args: Any = msgspec.json.decode(command.args, type=known[command.name])
        self.log.append((service, command.name, args))
        if command.name in self.hold:
            return
        if (failure := self.fail.get(command.name)) is not None:
            self.answer(command, failure=failure)
        elif command.name == "exec":
            self.running[command.id] = command
            pid, enrol = self.agents[args.env["AGENT"]]
            if self.comes and enrol.name not in self.absent:
                self.news(pid, args.env["AGENT"], "registered")
        elif command.name == "kill":
            if args.exec in self.running:
                self.end(args.exec, 137, b"killed")
        else:
            self.answer(command, self._answer_of(service, command, args, subject))

    def _answer_of(self, service: str, command: m.Command, args: Any, subject: str) -> Any:
        target = subject.rpartition(".")[2]
        if command.name == "create":
            return machine_wire.MachineRef(ids.derived_id("m", command.id, self.world.clock), "app", "node", "local")
        if command.name == "describe" and service == "machine":
            return machine_wire.Description(target, "app", "node", "local", "running", workdir="/work")
        if command.name == "describe":
            owner, enrol = self.agents[target]
            usage = wire.Usage("m", 10, 20, cost=0.5)
            return wire.AgentRecord(
                id=target, app="app", command="c", name=enrol.name, owner=m.Ref(owner, 0, 1), harness="x", usage=usage
            )
        if command.name == "enrol":
            id_ = ids.derived_id(ids.AGENT, command.id, 1_700_000_000.0)
            assert command.by is not None
            self.agents[id_] = (command.by.pid, args)
            return wire.Enrolled(id_, f"http://doors/{id_}", "rga_1", self._launch(id_) if args.machine else None)
        if command.name == "relaunch":
            return self._launch(target)
        return {"send": 7, "attach": "g_1"}.get(command.name) if command.name != "read" else self.pages.pop(0)

    def _launch(self, agent: str) -> wire.Launch:
        session = self._sessions[agent] = self._sessions.get(agent, 0) + 1
        files = [wire.LaunchFile("run.sh", b"#!"), wire.LaunchFile("token", b"rga_1", 0o400)]
        env = {"AGENT": agent, "REGROW_AGENT_URL": f"http://gateway/agents/{agent}"}
        return wire.Launch(session, files, "sh run.sh", env)

    def answer(self, command: m.Command, value: Any = None, failure: Failure | None = None) -> None:
        """Answer a command, if it has an answer."""
        if command.reply:
            assert command.by is not None
            assert command.op is not None
            raw = UNSET if failure is not None else Raw(m.encode(value))
            result = m.Result(incarnation=command.by.incarnation, op=command.op, value=raw, error=failure)
            self.world.send(command.by.pid, result)

    def release(self, name: str) -> None:
        """Answer the commands of that name that were held."""
        self.hold.discard(name)
        for subject, command in self.world.commands[: self._answered]:
            if command.name == name:
                args = msgspec.json.decode(command.args, type=(wire.ARGUMENTS | machine_wire.ARGUMENTS)[name])
                self.answer(command, self._answer_of(subject.split(".")[2], command, args, subject))
        self.settle()

    def end(self, exec_id: str = "", exit_code: int = 1, output: bytes = b"") -> None:
        """A harness ends; by default the one that runs."""
        exec_id = exec_id or next(iter(self.running))
        self.answer(self.running.pop(exec_id), machine_wire.ExecDone(exit_code, output))

    def news(self, pid: str, agent: str, what: Any, **data: Any) -> None:
        """The gateway tells the owner something."""
        news = wire.News(what, self._sessions.get(agent, 1), to_raw(data))
        args = Raw(m.encode(news))
        self._calls += 1
        call = m.Call(endpoint=wire.news_endpoint(agent), args=args, client=f"{agent}.{self._calls}", k=1, wait=True)
        self.world.send(pid, call)

    def call(self, pid: str, agent: str, tool: str, call: str = "1", **args: Any) -> str:
        """The agent calls a tool; where the answer is to be found."""
        key = wire.call_key("s", call)
        reply = wire.answer_subject("app", agent, key)
        endpoint = wire.tool_endpoint(agent, tool)
        self.world.send(pid, m.ToolCall(agent=agent, call=key, endpoint=endpoint, args=to_raw(args), reply=reply))
        return reply

    def ask(self, pid: str, agent: str, tool: str, call: str = "1", **args: Any) -> wire.Outcome:
        """Call a tool; what it answers, which is told once."""
        reply = self.call(pid, agent, tool, call, **args)
        self.settle()
        (entry,) = self.world.entries[reply]
        return msgspec.json.decode(entry.data, type=wire.Outcome)

    def asked(self, name: str) -> list[Any]:
        """Arguments of the commands of a name so far."""
        return [args for _, each, args in self.log if each == name]

    @property
    def names(self) -> list[str]:
        """Of all commands so far, as `machine.create`."""
        return [f"{service}.{name}" for service, name, _ in self.log]

    @property
    def agent(self) -> str:
        """Id of the agent that was enrolled last."""
        return list(self.agents)[-1]
