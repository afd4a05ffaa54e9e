"""One governed run, from the wish to the ack."""

import os
import shutil
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from chassis.errors import AlreadyAcked, CalyxError, DeadlineExceeded, LeaseLost, NotFound, Refused, Unavailable
from chassis.exchange.holders import holder_of
from chassis.identity import load_token
from chassis.ids import RandomIds
from chassis.journal import Journal, consent_within
from chassis.killswitch import KillSwitch
from cli.reach import Reach, endpoints
from cli.run import entry, notes, rehearsed
from cli.run.asking import give_back, say
from cli.run.child import Child, Ended, Spec, environment
from cli.run.footprint import footprint
from cli.run.orders import Order
from cli.run.stage import Stage, obstacle, opened
from cli.run.station import AgentStation, Answer, Domain, Governing, Joined, Taken, TaskSeen, allowed
from cli.run.throttle import Cgroup, make_cgroup
from cli.run.watching import Pulse, Watched, watch

ACK_SECONDS = 20.0
"""How long the answer is tried while the station can't be reached; the lease goes on being kept meanwhile."""


class Run:
    """One run, from the wish to the ack."""

    def __init__(
        self, reach: Reach, wish: entry.Wish, mask: tuple[int, ...], undo_on_failure: bool, network: bool
    ) -> None:
        self.reach, self.wish, self._mask, self._undo_on_failure = reach, wish, mask, undo_on_failure
        self._network, self._irreversible = network, False
        self.clock = reach.clock
        self._ttl = timedelta.max
        self.switch = KillSwitch(reach.layout.kill_switch)
        self._scratch = Path(tempfile.mkdtemp(prefix="calyx-run-"))
        self._hidden = tuple(
            dict.fromkeys(each.resolve() for each in (reach.layout.root, entry.secrets_of(reach)) if each.is_dir())
        )

    def govern(self, if_down: str) -> tuple[int, dict[str, Any]]:
        try:
            try:
                station, joined, domain = entry.enter(self.reach, self.wish, "")
            except (Unavailable, DeadlineExceeded) as error:
                if if_down != "run":
                    raise Refused(f"{error.message}; --if-down run would run it ungoverned") from error
                return self._ungoverned(error), {"governed": False}
            try:
                self._ttl = min(self.wish.ttl or domain.ttl, domain.ttl)
                self._hand_in(station)
                self._irreversible = domain.effects == "irreversible"
                if self._irreversible and self._undo_on_failure:
                    raise Refused(f"{domain.name} declares its effects irreversible; --undo-on-failure can't be kept")
                if not self.wish.paths:
                    self.wish = _with_paths(self.wish, entry.real_paths(self.reach, domain.paths))
                return self._governed(station, joined, self._cannot_rehearse(domain))
            finally:
                station.close()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    # without the station

    def _ungoverned(self, error: CalyxError) -> int:
        if self.switch.engaged():
            raise Refused(f"the kill switch is on: {self.switch.why() or 'no reason given'}")
        say(f"{error.message}; running it ungoverned, which is recorded and told later")
        began = self.clock.now()
        child = Child(
            Spec(
                argv=self.wish.argv,
                env=environment(os.environ, {}, self._scratch),
                cwd=Path.cwd(),
                writable=(),
                hidden=(),
                confine=False,
                contain=False,
                mask=self._mask,
            )
        )
        if child.began.failed:
            return self._could_not(child)
        pulse = Pulse(beat=_no_beat, clock=self.clock, every_seconds=60.0)
        with give_back():
            went = watch(
                child, pulse, switch=self.switch, clock=self.clock, lease_seconds=float("inf"),
                ttl_seconds=float("inf"), cgroup=None, say=say
            )  # fmt: skip
        status = went.ended.status
        if self.reach.layout.root.is_dir():
            notes.keep(self.reach.layout, self.wish.domain, self.wish.command, began, self.clock.now(), status)
        return status

    def _hand_in(self, station: Governing) -> None:
        for path, note_ in notes.kept(self.reach.layout, self.wish.domain):
            try:
                station.report(notes.words(note_))
                path.unlink(missing_ok=True)
            except CalyxError as error:
                say(f"a run from while the station was down could not be told yet: {error.message}")
                return

    def _could_not(self, child: Child) -> int:
        say(f"{self.wish.argv[0]}: {child.began.why}")
        child.ended(5.0)
        return child.began.failed

    # with it

    def _cannot_rehearse(self, domain: Domain) -> str:
        """Why a person has to be asked before it runs, instead of after a rehearsal; empty if it can be rehearsed."""
        if not domain.rehearses:
            return "its domain was signed without it (--no-rehearse)"
        if self._irreversible:
            return "its effects are declared irreversible"
        if self._network:
            return "it needs the network (--network)"
        return obstacle(self.reach.layout, say) if self.wish.paths else "it has no folder to change"

    def _governed(self, station: AgentStation, joined: Joined, cannot: str) -> tuple[int, dict[str, Any]]:
        params = {"command": self.wish.command, "paths": ":".join(map(str, self.wish.paths))}
        params |= {"cannot_rehearse": cannot[:300]} if cannot else {}
        key = RandomIds().new("run")
        proposed = station.propose(self.wish.domain, self.wish.objective, params, key, self._ttl)
        if cannot and proposed.waits_for_person:
            say(f"cannot rehearse: {cannot}")
        task = entry.agree(self.reach, station, self.wish, proposed)
        taken, pulse = self.claim(station, joined, task)
        try:
            if not taken.rehearsal:
                return self._claimed(station, joined, task.id, taken.epoch, pulse)
            with opened(self.reach.layout, task.id) as folder:
                return rehearsed.rehearse(self, station, joined, task.id, taken.epoch, pulse, folder)
        finally:
            pulse.stop()

    def claim(self, station: Governing, joined: Joined, task: TaskSeen) -> tuple[Taken, Pulse]:
        """Ours, with heartbeats."""
        holder = holder_of(os.getpid())
        if holder is None:
            entry.withdraw(self.reach, task.id, "its process can't be identified")
            raise Refused("/proc can't be read, so this run could not be told from others; nothing was started")
        taken = station.claim(task.id, holder)
        if not taken.epoch:
            entry.withdraw(self.reach, task.id, "it could not be claimed")
            raise Refused(f"{task.id} can't be claimed: {taken.why or 'somebody else has it, or it has ended'}")
        pulse = Pulse(
            beat=lambda cpu, rss: station.heartbeat(task.id, taken.epoch, cpu, rss),
            clock=self.clock,
            every_seconds=min(2.0, joined.beat_seconds or 2.0),
        )
        pulse.start()
        return taken, pulse

    # with its effects at once

    def journal(self) -> Journal:
        journal = Journal(self.reach.layout.journal, self.clock, consent_within(self.wish.paths))
        for line in journal.recover():
            say(f"journal: {line}")
        return journal

    def say_undo(self, task_id: str, answer: Answer) -> None:
        if not answer.applied or answer.reverted:
            return
        if self._irreversible:
            say(f"{answer.files_changed} changed; its effects are declared irreversible, so there is no undo")
        else:
            say(f"{answer.files_changed} changed; to take it back: calyx undo {task_id}")

    def _claimed(
        self, station: Governing, joined: Joined, task_id: str, epoch: int, pulse: Pulse
    ) -> tuple[int, dict[str, Any]]:
        journal = self.journal()
        cgroup = make_cgroup(task_id)
        began = self.clock.monotonic()
        try:
            with journal.watch(task_id, epoch, self.wish.paths, guard=lambda: allowed(station, task_id, epoch)) as seen:
                if self.switch.engaged():  # keeping what is there took its time
                    seen.settle()
                    seen.finish({"status": "cancelled", "detail": "stopped by the kill switch", "applied": False})
                    raise Refused(f"the kill switch is on: {self.switch.why() or 'no reason given'}")
                child, went = self.run(task_id, joined, pulse, cgroup)
                changes = seen.settle()
                answer, lost = self.answer(child, went, changes, self.clock.monotonic() - began)
                seen.finish({"status": answer.status, "detail": answer.detail, "applied": answer.applied})
        except (CalyxError, OSError) as error:
            why = error.message if isinstance(error, CalyxError) else str(error)
            self.ack(station, task_id, epoch, Answer(status="cancelled", detail=why, seconds=0.0))
            raise
        finally:
            if cgroup is not None:
                cgroup.remove()
        if self._undo_on_failure and answer.applied and answer.status != "done":
            answer = self.take_back(journal, task_id, answer)
        recorded = "lost" if lost else self.ack(station, task_id, epoch, answer)
        self.say_undo(task_id, answer)
        status = went.ended.status if went is not None else child.began.failed
        return status, {
            "governed": True, "task": task_id, "status": recorded, "files_changed": answer.files_changed,
            "applied": answer.applied, "reverted": answer.reverted, "landlock": child.began.landlock,
            "apart": child.began.apart, "throttled_by": went.throttled_by if went is not None else "",
            "cost": dict(answer.cost or {}),
        }  # fmt: skip

    def run(
        self, task_id: str, joined: Joined, pulse: Pulse, cgroup: Cgroup | None, stage: Stage | None = None
    ) -> tuple[Child, Watched | None]:
        """The command, until it has ended. With a stage, on its layers. Raises Cannot where those can't be had."""
        dashboard = str(endpoints(self.reach.layout).get("dashboard", "")) or "http://127.0.0.1:4040"
        token = load_token(entry.secrets_of(self.reach) / "agents", joined.agent)
        given = {"CALYX_AGENT_TOKEN": token, "CALYX_URL": dashboard, "CALYX_TASK_ID": task_id}
        spec = Spec(
            argv=self.wish.argv,
            env=environment(os.environ, given, self._scratch),
            cwd=Path.cwd(),
            writable=(*self.wish.paths, self._scratch),
            hidden=self._hidden,
            cgroup="" if cgroup is None else str(cgroup.folder),
            mask=self._mask,
            scratch=self._scratch,
        )
        child = Child(spec) if stage is None else stage.start(lambda layers: replace(spec, layers=layers))
        if child.began.failed:
            self._could_not(child)
            return child, None
        pulse.child = child
        if not child.began.landlock and stage is None:
            say("unconfined: this kernel has no Landlock, so its writes are not held to its folders")
        if not child.began.apart:
            say("no namespace of its own: if both this and its supervisor are killed, what detached itself lives on")
        with give_back():
            went = watch(
                child, pulse, switch=self.switch, clock=self.clock, lease_seconds=joined.lease_seconds,
                ttl_seconds=self._ttl.total_seconds(),
                cgroup=cgroup, say=say,
            )  # fmt: skip
        pulse.child = None
        return child, went

    def answer(
        self, child: Child, went: Watched | None, changes: tuple[dict[str, Any], ...], seconds: float
    ) -> tuple[Answer, bool]:
        """What the task is answered with, and whether it is lost, so that nothing is to be answered."""
        found = footprint(changes)
        ended = went.ended if went is not None else Ended(status=child.began.failed)
        kind = went.action.kind if went is not None else "run"
        applied = found.files_changed > 0
        status = "done" if applied else "no_work"
        if kind not in ("run", "late"):
            status = "cancelled"
        elif kind == "late" or ended.status != 0:
            status = "failed"
        words = [f"exit status {ended.status}", f"{found.files_changed} files changed"]
        if went is not None and kind != "run":
            words.append(f"ended by the station: {went.action.reason}")
        if went is not None and went.throttled_by:
            words.append(f"throttled by {went.throttled_by}")
        if not child.began.landlock and not child.began.sealed:
            words.append("unconfined")
        if found.left:
            words.append(f"can't be undone: {', '.join(found.left[:5])}")
        cost = {"exit_status": float(ended.status)}
        if ended.cpu_seconds is not None:
            cost["cpu_seconds"] = ended.cpu_seconds
        if ended.max_rss_bytes is not None:
            cost["max_rss_bytes"] = float(ended.max_rss_bytes)
        answer = Answer(
            status=status, detail="; ".join(words), seconds=seconds, files_changed=found.files_changed,
            effects=found.effects, claims=found.claims, cost=cost, applied=applied,
        )  # fmt: skip
        return answer, kind == "lost"

    def take_back(self, journal: Journal, task_id: str, answer: Answer) -> Answer:
        try:
            done = journal.undo(task_id)
        except CalyxError as error:
            say(f"its changes could not be taken back: {error.message}")
            return answer
        say(f"its changes were taken back: {done.detail}")
        return replace(answer, reverted=True, claims=(), detail=f"{answer.detail}; taken back")

    def ack(self, station: Governing, task_id: str, epoch: int, answer: Answer) -> str:
        ends = self.clock.monotonic() + ACK_SECONDS
        while True:
            try:
                return station.ack(task_id, epoch, answer)
            except (LeaseLost, AlreadyAcked, NotFound) as error:
                say(f"the answer was not taken: {error.message}")
                return "lost"
            except (Unavailable, DeadlineExceeded) as error:
                if self.clock.monotonic() >= ends:
                    say(f"the answer could not be given ({error.message}); the station will count the task as lost")
                    return "lost"
                self.clock.wait(0.5)


def _no_beat(cpu_percent: float | None, rss_bytes: int | None) -> Order:
    raise Unavailable("ungoverned")


def _with_paths(wish: entry.Wish, paths: tuple[Path, ...]) -> entry.Wish:
    return replace(wish, paths=paths)
