"""What a person may do from the page, and the read-outs behind it; each act leaves an audit line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chassis.audit import Audit
from chassis.canonical import Json
from chassis.clock import Clock
from chassis.errors import DeadlineExceeded, InvalidInput, NotFound, Unavailable
from chassis.killswitch import KillSwitch
from chassis.layout import Layout
from services.dashboard.export import Export, export
from services.dashboard.ports import Peers

READ_SECONDS, ACT_SECONDS, PULSE_SECONDS = 5.0, 10.0, 60.0
CHART_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A picture that analytics lists."""

    data: bytes
    media_type: str


class Desk:
    """Blocking; safe for several threads. `who` is the session or the token's caller, for the audit."""

    def __init__(
        self,
        peers: Peers,
        layout: Layout,
        clock: Clock,
        audit: Audit,
        *,
        environment: Mapping[str, str],
        known_secrets: Callable[[], tuple[str, ...]],
    ) -> None:
        self.peers = peers
        self._layout, self._clock, self._audit = layout, clock, audit
        self._environment, self._known_secrets = environment, known_secrets
        self._switch = KillSwitch(layout.kill_switch)

    def set_kill_switch(self, engaged: bool, why: str, who: str) -> Json:
        """Through the overseer. If it can't be reached, stopping still works: the flag is set here, and said so.

        Releasing needs the overseer: in doubt, no effect.
        """
        if engaged and not why.strip():
            raise InvalidInput("say why: stopping needs a reason")
        try:
            answer = self.peers.cbo.set_kill_switch(engaged, why, ACT_SECONDS / 4)
        except (Unavailable, DeadlineExceeded):
            if not engaged:
                raise
            before = self._switch.engaged()
            self._switch.engage(why, who, self._clock.now())
            self._audit.write("kill_switch.engaged_directly", why=why, who=who)
            return {"engaged": True, "changed": not before, "note": "the overseer is silent; the flag was set directly"}
        self._audit.write("kill_switch.set", engaged=engaged, why=why, who=who)
        return answer

    def approve(self, task_id: str, plan_digest: str, who: str) -> Json:
        task = self.peers.cbo.approve(task_id, plan_digest, ACT_SECONDS)
        self._audit.write("task.approved", task=task_id, plan_digest=plan_digest, who=who)
        return task

    def reject(self, task_id: str, why: str, who: str) -> Json:
        task = self.peers.cbo.reject(task_id, why, ACT_SECONDS)
        self._audit.write("task.rejected", task=task_id, why=why, who=who)
        return task

    def cancel(self, task_id: str, why: str, who: str) -> Json:
        task = self.peers.cbo.cancel(task_id, why, ACT_SECONDS)
        self._audit.write("task.cancelled", task=task_id, why=why, who=who)
        return task

    def submit(self, wanted: Json, who: str) -> Json:
        objective = self.peers.cbo.submit(wanted, ACT_SECONDS)
        self._audit.write("objective.submitted", objective=objective.get("id"), who=who)
        return objective

    def run_pulse(self, who: str) -> Json:
        pulse = self.peers.cbo.run_pulse(PULSE_SECONDS)
        self._audit.write("pulse.asked_for", who=who)
        return pulse

    def note(self, event: str, **facts: Any) -> None:
        """An audit line for what happens at the edge (logins)."""
        self._audit.write(event, **facts)

    def chart(self, name: str) -> Chart:
        """Only a file that analytics lists and that really lies in its folder. Raises NotFound."""
        listed = next((c for c in self.peers.analytics.charts(READ_SECONDS) if c["name"] == name), None)
        missing = NotFound(f"there is no chart {name[:80]!r}")
        kind = CHART_TYPES.get(Path(name).suffix)
        if listed is None or kind is None:
            raise missing
        folder = self._layout.trends.resolve()
        path = (self._layout.root / listed["path"]).resolve()
        if path.parent != folder and folder not in path.parents:
            raise missing
        try:
            return Chart(data=path.read_bytes(), media_type=kind)
        except OSError as error:
            raise missing from error

    def export(self, overview: Json, who: str) -> Export:
        cbo = self.peers.cbo
        made = export(
            layout=self._layout,
            clock=self._clock,
            documents={
                "overview": lambda: overview,
                "kpis": lambda: cbo.kpis(READ_SECONDS),
                "ladder": lambda: cbo.ladder(READ_SECONDS),
                "tasks": lambda: cbo.tasks(200, "", "", False, READ_SECONDS),
                "incidents": lambda: self.peers.guardian.incidents(50, READ_SECONDS),
            },
            environment=self._environment,
            known_secrets=self._known_secrets(),
        )
        self._audit.write("diagnostics.exported", size_bytes=len(made.archive), who=who)
        return made
