"""What OTP's `supervisor` does, said once more in few lines; nothing here knows Regrow's code.

Written from OTP's contract (restart types, strategies, intensity and period, shutdown, significant children,
`terminate_child`, `restart_child`, `delete_child`), with what Regrow says beyond it: the exit `final` is never followed
by a restart; a supervisor that gives up has failed; one that is not `held` open is done when no child runs; a restart
is the next run of the same process, where that has not ended for good.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

Exit = Literal["done", "failed", "final", "cancelled"]
"""OTP's `normal`, an error, Regrow's `fail(retryable=False)`, and OTP's `shutdown` from somebody else."""


class Node:
    """A process and how its supervisor is to treat it; `children` in the order of their start."""

    def __init__(self, spec: dict[str, Any], parent: Node | None) -> None:
        self.spec, self.parent = spec, parent
        self.id, self.restart, self.significant = spec["id"], spec["restart"], spec["significant"]
        self.path: str = f"{parent.path}.{self.id}" if parent else self.id
        self.alive, self.over, self.run = False, True, -1
        self.unseen = False  # it has ended, and its supervisor has not dealt with that
        self.children: list[Node] = []
        self.restarts: list[tuple[float, list[Any]]] = []

    @property
    def active(self) -> bool:
        """As far as its supervisor knows."""
        return self.alive or self.unseen

    def comes_again(self, reason: Exit) -> bool:
        return reason != "final" and (self.restart == "permanent" or (self.restart, reason) == ("transient", "failed"))


class Model:
    """A tree of processes, a clock, what happened among the children of each supervisor, and who gave up, over what."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.clock = 0.0
        self.happened: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self.gave_up: list[tuple[str, list[Any]]] = []
        self.root = Node(spec, None)
        self.start(self.root)

    def _note(self, what: str, node: Node) -> None:
        if node.parent:
            self.happened[node.parent.path].append((what, node.id))

    def start(self, node: Node) -> None:
        node.run = 0 if node.over else node.run + 1
        node.alive, node.over, node.restarts = True, False, []
        self._note("up", node)
        node.children = [Node(spec, node) for spec in node.spec.get("children", [])]
        for child in node.children:
            self.start(child)

    def stop(self, node: Node) -> None:
        """Its supervisor ends it: what is below it first, and not longer than its `shutdown`."""
        node.unseen = False
        if node.alive:
            self._stop_children(node)
            shutdown = node.spec["shutdown"]
            self.clock += node.spec["slow"] if shutdown is None else min(node.spec["slow"], shutdown)
            node.alive = False
            self._note("down", node)

    def _stop_children(self, node: Node) -> None:
        began = latest = self.clock
        for child in reversed(node.children):
            self.clock = began if node.spec["strategy"] == "simple_one_for_one" else self.clock
            self.stop(child)
            latest = max(latest, self.clock)
        self.clock = latest

    def exits(self, *deaths: tuple[Node, Exit]) -> None:
        """Children of one supervisor end by themselves, in this order, before it hears of the first."""
        self.die(*deaths)
        self.hear(deaths[0][0].parent, *deaths)

    def die(self, *deaths: tuple[Node, Exit]) -> None:
        for node, reason in deaths:
            self._stop_children(node)
            self.clock += node.spec["slow"] if reason == "cancelled" else 0
            node.alive, node.over, node.unseen = False, not node.comes_again(reason), True
            self._note("down", node)

    def hear(self, above: Node | None, *deaths: tuple[Node, Exit]) -> None:
        """A supervisor deals with them, and has nothing else to do after that."""
        for node, reason in deaths:
            if above and above.alive and node in above.children and node.unseen:
                node.unseen = False
                self._deal_with(above, node, reason)
        if above and above.alive and not above.spec["held"] and not any(each.active for each in above.children):
            self.exits((above, "done"))

    def _deal_with(self, above: Node, node: Node, reason: Exit) -> None:
        spec = above.spec
        if not node.comes_again(reason):
            if node.restart == "temporary" or spec["strategy"] == "simple_one_for_one":
                above.children.remove(node)
            left = any(each.significant and each.active for each in above.children)
            if node.significant and (spec["auto"] == "any_significant" or not left):
                self.exits((above, "done"))
            return
        above.restarts = [each for each in above.restarts if each[0] >= self.clock - spec["within"]]
        above.restarts.append((self.clock, [node.id, node.run, reason]))
        if len(above.restarts) > spec["max_restarts"]:
            self.gave_up.append((above.path, [what for _, what in above.restarts]))
            self.exits((above, "failed"))
            return
        affected = {"one_for_all": above.children, "rest_for_one": above.children[above.children.index(node) :]}
        group = list(affected.get(spec["strategy"], [node]))
        for each in reversed(group):
            self.stop(each)
        above.children = [each for each in above.children if each not in group or each.restart != "temporary"]
        for each in group:
            if each.restart != "temporary":
                self.start(each)

    def terminate_child(self, node: Node) -> bool:
        """False where it is not known."""
        assert node.parent
        if node not in node.parent.children:
            return False
        self.stop(node)
        if node.restart == "temporary" or node.parent.spec["strategy"] == "simple_one_for_one":
            node.parent.children.remove(node)
        return True

    def restart_child(self, node: Node) -> bool:
        """False where it is not known, or runs."""
        assert node.parent
        if node.active or node not in node.parent.children or not node.parent.alive:
            return False
        self.start(node)
        return True

    def delete_child(self, node: Node) -> bool:
        """False where it is not known, or runs."""
        assert node.parent
        if node.active or node not in node.parent.children:
            return False
        node.parent.children.remove(node)
        return True
