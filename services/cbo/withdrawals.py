"""Takes back what is out while the policy, or the level of its domain, no longer allows it."""

from chassis.domains import DomainManifest, Level
from chassis.policy import Verdict, decide
from services.cbo.bridge import Bridge
from services.cbo.dispatch import request_of
from services.cbo.tasks import OPEN, Task


class Withdrawals:
    """What nobody began is judged by the time it is now. What is running is judged by the time at which it went: a
    changed policy ends it, the begin of quiet hours does not, for hours are about what begins. Budgets were spent."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._ending: set[str] = set()

    def notice(self) -> None:
        """Cancel what may not go on; its objective is planned again."""
        bridge, ending = self._bridge, set[str]()
        for task in bridge.store.tasks("tasks_open"):
            manifest = bridge.domains.get(task.domain)
            if task.dispatched_at is None or task.undo_of or manifest is None or task.state not in OPEN:
                continue
            if self._lowered(task):
                continue
            verdict = self._verdict(task, manifest)
            if verdict.allowed:
                continue
            ending.add(task.id)
            if task.id in self._ending or not bridge.exchange.cancel(task.id, verdict.reason):
                continue
            rule = "" if verdict.rule is None else verdict.rule.name
            bridge.audit.write(
                "policy.blocked", task=task.id, domain=task.domain, by="the station", rule=rule,
                why=f"policy: {verdict.reason}",
            )  # fmt: skip
            if verdict.waits and task.objective_id:
                bridge.store.run("objective_again", task.objective_id)
        self._ending = ending

    def _lowered(self, task: Task) -> bool:
        """Demotion beats approval also after the dispatch, as long as nobody has begun."""
        bridge, level = self._bridge, self._bridge.ladder.standing(task.domain).level
        if not task.approval or task.state == "claimed" or level >= Level.GUIDE:
            return False
        why = f"level: {task.domain} was lowered to {level.name} since {task.approval} approved it; nothing was done"
        if bridge.exchange.cancel(task.id, why):
            bridge.audit.write("approval.void", task=task.id, domain=task.domain, by="the station", why=why)
        return True

    def _verdict(self, task: Task, manifest: DomainManifest) -> Verdict:
        bridge, when = self._bridge, self._bridge.clock.now()
        if task.state == "claimed" and task.dispatched_at is not None:
            when = task.dispatched_at
        return decide(request_of(bridge, task, manifest), bridge.policy_file.rules(), when, {})
