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
        self.children: list[Node] = []
        self.restarts: list[tuple[float, list[Any]]] = []

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
        for node, reason in deaths:
            self._stop_children(node)
            self.clock += node.spec["slow"] if reason == "cancelled" else 0
            node.alive, node.over = False, not node.comes_again(reason)
            self._note("down", node)
        above, waiting = deaths[0][0].parent, list(deaths)
        while above and above.alive and waiting:
            waiting = self._deal_with(above, *waiting.pop(0), waiting)
        self._may_be_done(above)

    def _may_be_done(self, above: Node | None) -> None:
        if above and above.alive and not above.spec["held"] and not any(each.alive for each in above.children):
            self.exits((above, "done"))

    def _deal_with(
        self, above: Node, node: Node, reason: Exit, waiting: list[tuple[Node, Exit]]
    ) -> list[tuple[Node, Exit]]:
        spec = above.spec
        if not node.comes_again(reason):
            if node.restart == "temporary" or spec["strategy"] == "simple_one_for_one":
                above.children.remove(node)
            active = [each for each in above.children if each.alive or each in [other for other, _ in waiting]]
            if node.significant and (spec["auto"] == "any_significant" or not any(each.significant for each in active)):
                self.exits((above, "done"))
                return []
            return waiting
        above.restarts = [each for each in above.restarts if each[0] >= self.clock - spec["within"]]
        above.restarts.append((self.clock, [node.id, node.run, reason]))
        if len(above.restarts) > spec["max_restarts"]:
            self.gave_up.append((above.path, [what for _, what in above.restarts]))
            self.exits((above, "failed"))
            return []
        affected = {"one_for_all": above.children, "rest_for_one": above.children[above.children.index(node) :]}
        group = list(affected.get(spec["strategy"], [node]))
        for each in reversed(group):
            self.stop(each)
        above.children = [each for each in above.children if each not in group or each.restart != "temporary"]
        for each in group:
            if each.restart != "temporary":
                self.start(each)
        return [(other, why) for other, why in waiting if other not in group]

    def terminate_child(self, node: Node) -> None:
        assert node.parent
        self.stop(node)
        if node.restart == "temporary" or node.parent.spec["strategy"] == "simple_one_for_one":
            node.parent.children.remove(node)
        self._may_be_done(node.parent)

    def restart_child(self, node: Node) -> bool:
        """False where it runs already."""
        if not node.alive:
            self.start(node)
            return True
        return False

    def delete_child(self, node: Node) -> bool:
        """False where it runs."""
        assert node.parent
        if not node.alive:
            node.parent.children.remove(node)
        return not node.alive
