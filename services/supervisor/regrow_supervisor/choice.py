"""To which build a process goes whose own build has no host any more: a pure function.

An app may have hosts of several programs at once (each `regrow run` of another file is one), so not every living build
can run every process: the build must know the process's type. Where it is known which program the process belongs to
and which one the hosts run, they must be the same file or module (releases may lie in folders of their own, so only the
last part of a path counts).

A function inside another one is known to no other build; such a process goes where its program is, to fail there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from regrow_protocol.messages import HostRecord

_NESTED = ".<locals>."


@dataclass(frozen=True)
class LiveBuild:
    """A build that has living hosts.

    Attributes:
        build: its hash.
        types: process types that its hosts know.
        targets: programs that its hosts run; may be empty.
        created: when the build was first seen, seconds since 1970.
    """

    build: str
    types: frozenset[str]
    targets: frozenset[str]
    created: float

    @classmethod
    def of(cls, build: str, hosts: Iterable[HostRecord], created: float | None) -> LiveBuild:
        """The build of `hosts` (at least one); without `created`, it is as old as its first host."""
        hosts = list(hosts)
        return cls(
            build,
            frozenset(type_ for host in hosts for type_ in host.types),
            frozenset(host.target for host in hosts if host.target),
            min(host.started for host in hosts) if created is None else created,
        )

    def runs(self, type_: str, target: str) -> bool:
        """Whether its hosts can fold a process of this type and of the program `target` (empty: unknown)."""
        if type_ not in self.types and not (target and self.targets and _NESTED in type_):
            return False
        return not target or not self.targets or _program(target) in map(_program, self.targets)


def newest(builds: Iterable[LiveBuild], type_: str, target: str) -> str | None:
    """The newest build that runs such a process; None when none does."""
    able = [build for build in builds if build.runs(type_, target)]
    return max(able, key=lambda build: (build.created, build.build)).build if able else None


def _program(target: str) -> str:
    return target.replace("\\", "/").rsplit("/", 1)[-1]
