"""`calyx run`: any program as a governed task. Its own words go to stderr; 125 says that the station refused."""

import os
import shutil
import signal
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.exceptions import Exit

from chassis.atomic import write_json
from chassis.errors import AlreadyAcked, CalyxError, DeadlineExceeded, LeaseLost, NotFound, Refused, Unavailable
from chassis.exchange.holders import holder_of
from chassis.identity import load_token
from chassis.ids import RandomIds
from chassis.journal import Journal, consent_within
from chassis.killswitch import KillSwitch
from cli.output import note
from cli.reach import Reach, endpoints, reach_of
from cli.run import entry, notes
from cli.run.asking import give_back
from cli.run.child import Child, Ended, Spec, environment
from cli.run.footprint import footprint
from cli.run.orders import Order
from cli.run.station import AgentStation, Answer, Governing, Joined
from cli.run.throttle import Cgroup, make_cgroup
from cli.run.watching import BLOCKED, Pulse, Watched, watch
from cli.times import parse_span

REFUSED = 125
ACK_SECONDS = 20.0
"""How long the answer is tried while the station can't be reached; the lease goes on being kept meanwhile."""


def register(app: typer.Typer) -> None:
    app.command("run", context_settings={"allow_interspersed_args": False})(run)


def run(
    ctx: typer.Context,
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")],
    domain: Annotated[str, typer.Option(help="The kind of work that it is.")],
    objective: Annotated[str, typer.Option(help="What it is for, in words.")] = "",
    ttl: Annotated[str, typer.Option(help="How long it may take (default, and at most: as its domain says).")] = "",
    path: Annotated[
        list[Path] | None, typer.Option("--path", help="A folder that it may change; default: all of the domain's.")
    ] = None,
    if_down: Annotated[
        Literal["refuse", "run"], typer.Option("--if-down", help="When the station can't be reached.")
    ] = "refuse",
    wait: Annotated[str, typer.Option(help="Wait so long for a person's yes.")] = "0",
    undo_on_failure: Annotated[
        bool, typer.Option("--undo-on-failure", help="Take its changes back when it fails.")
    ] = False,
    json_summary: Annotated[
        Path | None, typer.Option("--json-summary", help="Write how it went to this file, as JSON.")
    ] = None,
) -> None:
    """Run any program as a governed task. Example: calyx run --domain notes --path ~/notes -- sh -c 'date >> log'"""
    reach = reach_of(ctx)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        entry.check_command(command)
        wish = entry.Wish(
            domain=domain,
            objective=objective or f"run {command[0]}",
            argv=tuple(command),
            paths=entry.real_paths(reach, path or ()),
            ttl=timedelta(seconds=parse_span(ttl)) if ttl else None,
            wait_seconds=parse_span(wait),
        )
        if os.environ.get("CALYX_TASK_ID"):
            raise Refused("this is a governed task already; its commands run under the same gates")
        status, summary = _Run(reach, wish, tuple(int(each) for each in before), undo_on_failure).govern(if_down)
    except (CalyxError, OSError) as error:
        say(error.message if isinstance(error, CalyxError) else f"{error.strerror}: {error.filename or ''}")
        status, summary = REFUSED, {"refused": str(error)}
    except KeyboardInterrupt:
        say("stopped before it began")
        status, summary = REFUSED, {"refused": "stopped before it began"}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if json_summary is not None:
        write_json(json_summary, {"exit_status": status, **summary})
    raise Exit(status)


def say(words: str) -> None:
    note(f"calyx run: {' '.join(words.split())}")


class _Run:
    """One run, from the wish to the ack."""

    def __init__(self, reach: Reach, wish: entry.Wish, mask: tuple[int, ...], undo_on_failure: bool) -> None:
        self._reach, self._wish, self._mask, self._undo_on_failure = reach, wish, mask, undo_on_failure
        self._clock = reach.clock
        self._ttl = timedelta.max
        self._switch = KillSwitch(reach.layout.kill_switch)
        self._scratch = Path(tempfile.mkdtemp(prefix="calyx-run-"))
        self._hidden = tuple(
            dict.fromkeys(each.resolve() for each in (reach.layout.root, entry.secrets_of(reach)) if each.is_dir())
        )

    def govern(self, if_down: str) -> tuple[int, dict[str, Any]]:
        try:
            try:
                station, joined, domain = entry.enter(self._reach, self._wish, "")
            except (Unavailable, DeadlineExceeded) as error:
                if if_down != "run":
                    raise Refused(f"{error.message}; --if-down run would run it ungoverned") from error
                return self._ungoverned(error), {"governed": False}
            try:
                self._ttl = min(self._wish.ttl or domain.ttl, domain.ttl)
                self._hand_in(station)
                if not self._wish.paths:
                    self._wish = _with_paths(self._wish, entry.real_paths(self._reach, domain.paths))
                return self._governed(station, joined)
            finally:
                station.close()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    # without the station

    def _ungoverned(self, error: CalyxError) -> int:
        if self._switch.engaged():
            raise Refused(f"the kill switch is on: {self._switch.why() or 'no reason given'}")
        say(f"{error.message}; running it ungoverned, which is recorded and told later")
        began = self._clock.now()
        child = Child(
            Spec(
                argv=self._wish.argv,
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
        pulse = Pulse(beat=_no_beat, clock=self._clock, every_seconds=60.0)
        with give_back():
            went = watch(
                child, pulse, switch=self._switch, clock=self._clock, lease_seconds=float("inf"),
                ttl_seconds=float("inf"), cgroup=None, say=say
            )  # fmt: skip
        status = went.ended.status
        if self._reach.layout.root.is_dir():
            notes.keep(self._reach.layout, self._wish.domain, self._wish.command, began, self._clock.now(), status)
        return status

    def _hand_in(self, station: Governing) -> None:
        for path, note_ in notes.kept(self._reach.layout, self._wish.domain):
            try:
                station.report(notes.words(note_))
                path.unlink(missing_ok=True)
            except CalyxError as error:
                say(f"a run from while the station was down could not be told yet: {error.message}")
                return

    def _could_not(self, child: Child) -> int:
        say(f"{self._wish.argv[0]}: {child.began.why}")
        child.ended(5.0)
        return child.began.failed

    # with it

    def _governed(self, station: AgentStation, joined: Joined) -> tuple[int, dict[str, Any]]:
        params = {"command": self._wish.command, "paths": ":".join(map(str, self._wish.paths))}
        key = RandomIds().new("run")
        task = entry.agree(
            self._reach,
            station,
            self._wish,
            station.propose(self._wish.domain, self._wish.objective, params, key, self._ttl),
        )
        holder = holder_of(os.getpid())
        if holder is None:
            entry.withdraw(self._reach, task.id, "its process can't be identified")
            raise Refused("/proc can't be read, so this run could not be told from others; nothing was started")
        epoch, why = station.claim(task.id, holder)
        if not epoch:
            entry.withdraw(self._reach, task.id, "it could not be claimed")
            raise Refused(f"{task.id} can't be claimed: {why or 'somebody else has it, or it has ended'}")
        pulse = Pulse(
            beat=lambda cpu, rss: station.heartbeat(task.id, epoch, cpu, rss),
            clock=self._clock,
            every_seconds=min(2.0, joined.beat_seconds or 2.0),
        )
        pulse.start()
        try:
            return self._claimed(station, joined, task.id, epoch, pulse)
        finally:
            pulse.stop()

    def _claimed(
        self, station: Governing, joined: Joined, task_id: str, epoch: int, pulse: Pulse
    ) -> tuple[int, dict[str, Any]]:
        layout = self._reach.layout
        journal = Journal(layout.journal, self._clock, consent_within(self._wish.paths))
        for line in journal.recover():
            say(f"journal: {line}")
        cgroup = make_cgroup(task_id)
        began = self._clock.monotonic()
        try:
            with journal.watch(
                task_id, epoch, self._wish.paths, guard=lambda: _allowed(station, task_id, epoch)
            ) as seen:
                if self._switch.engaged():  # keeping what is there took its time
                    seen.settle()
                    seen.finish({"status": "cancelled", "detail": "stopped by the kill switch", "applied": False})
                    raise Refused(f"the kill switch is on: {self._switch.why() or 'no reason given'}")
                child, went = self._run(task_id, joined, pulse, cgroup)
                changes = seen.settle()
                answer, lost = self._answer(child, went, changes, self._clock.monotonic() - began)
                seen.finish({"status": answer.status, "detail": answer.detail, "applied": answer.applied})
        except (CalyxError, OSError) as error:
            why = error.message if isinstance(error, CalyxError) else str(error)
            self._ack(station, task_id, epoch, Answer(status="cancelled", detail=why, seconds=0.0))
            raise
        finally:
            if cgroup is not None:
                cgroup.remove()
        if self._undo_on_failure and answer.applied and answer.status != "done":
            answer = self._take_back(journal, task_id, answer)
        recorded = "lost" if lost else self._ack(station, task_id, epoch, answer)
        if answer.applied and not answer.reverted:
            say(f"{answer.files_changed} changed; to take it back: calyx undo {task_id}")
        status = went.ended.status if went is not None else child.began.failed
        return status, {
            "governed": True, "task": task_id, "status": recorded, "files_changed": answer.files_changed,
            "applied": answer.applied, "reverted": answer.reverted, "landlock": child.began.landlock,
            "apart": child.began.apart, "throttled_by": went.throttled_by if went is not None else "",
            "cost": dict(answer.cost or {}),
        }  # fmt: skip

    def _run(self, task_id: str, joined: Joined, pulse: Pulse, cgroup: Cgroup | None) -> tuple[Child, Watched | None]:
        dashboard = str(endpoints(self._reach.layout).get("dashboard", "")) or "http://127.0.0.1:4040"
        token = load_token(entry.secrets_of(self._reach) / "agents", joined.agent)
        given = {"CALYX_AGENT_TOKEN": token, "CALYX_URL": dashboard, "CALYX_TASK_ID": task_id}
        child = Child(
            Spec(
                argv=self._wish.argv,
                env=environment(os.environ, given, self._scratch),
                cwd=Path.cwd(),
                writable=(*self._wish.paths, self._scratch),
                hidden=self._hidden,
                cgroup="" if cgroup is None else str(cgroup.folder),
                mask=self._mask,
            )
        )
        if child.began.failed:
            self._could_not(child)
            return child, None
        pulse.child = child
        if not child.began.landlock:
            say("unconfined: this kernel has no Landlock, so its writes are not held to its folders")
        if not child.began.apart:
            say("no namespace of its own: if both this and its supervisor are killed, what detached itself lives on")
        with give_back():
            went = watch(
                child, pulse, switch=self._switch, clock=self._clock, lease_seconds=joined.lease_seconds,
                ttl_seconds=self._ttl.total_seconds(),
                cgroup=cgroup, say=say,
            )  # fmt: skip
        pulse.child = None
        return child, went

    def _answer(
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
        if not child.began.landlock:
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

    def _take_back(self, journal: Journal, task_id: str, answer: Answer) -> Answer:
        try:
            done = journal.undo(task_id)
        except CalyxError as error:
            say(f"its changes could not be taken back: {error.message}")
            return answer
        say(f"its changes were taken back: {done.detail}")
        return replace(answer, reverted=True, claims=(), detail=f"{answer.detail}; taken back")

    def _ack(self, station: Governing, task_id: str, epoch: int, answer: Answer) -> str:
        ends = self._clock.monotonic() + ACK_SECONDS
        while True:
            try:
                return station.ack(task_id, epoch, answer)
            except (LeaseLost, AlreadyAcked, NotFound) as error:
                say(f"the answer was not taken: {error.message}")
                return "lost"
            except (Unavailable, DeadlineExceeded) as error:
                if self._clock.monotonic() >= ends:
                    say(f"the answer could not be given ({error.message}); the station will count the task as lost")
                    return "lost"
                self._clock.wait(0.5)


def _no_beat(cpu_percent: float | None, rss_bytes: int | None) -> Order:
    raise Unavailable("ungoverned")


def _allowed(station: Governing, task_id: str, epoch: int) -> None:
    if why := station.check(task_id, epoch):
        raise Refused(why)


def _with_paths(wish: entry.Wish, paths: tuple[Path, ...]) -> entry.Wish:
    return replace(wish, paths=paths)
