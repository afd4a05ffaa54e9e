"""From a wish to a claim: the domain, its token, the gates, a person's yes. All that may refuse comes here."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from chassis.consent import forbidden
from chassis.errors import (
    CalyxError,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    PermissionDenied,
    Refused,
    Unauthenticated,
    Unavailable,
)
from chassis.identity import load_token
from cli.output import note
from cli.reach import Reach
from cli.run.asking import at_terminal, yes
from cli.run.station import WAIT_SECONDS, AgentStation, Domain, Governing, Joined, TaskSeen

REFUSED = 125
"""The exit status that says: the station refused."""
_MOST_WORDS = 2000
AGAIN_SECONDS = 1.0
_PROBED_WITHIN = 3
"""Pulses: the first may have begun before the rehearsal was answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the person typed."""

    domain: str
    objective: str
    argv: tuple[str, ...]
    paths: tuple[Path, ...]
    ttl: timedelta | None
    wait_seconds: float

    @property
    def command(self) -> str:
        return shlex.join(self.argv)[:_MOST_WORDS]


def secrets_of(reach: Reach) -> Path:
    from chassis.settings import StationSettings, load

    return load(StationSettings, "calyx").secrets_dir or reach.layout.secrets


def real_paths(reach: Reach, given: Sequence[Path]) -> tuple[Path, ...]:
    """The declared paths, their links resolved. Raises NotFound, Refused."""
    station, found = reach.layout.root.resolve(), []
    for each in given:
        real = each.expanduser().resolve()
        if not real.exists():
            raise NotFound(f"{real} is not there; make it first, or name another --path")
        if why := forbidden(real, station):
            raise Refused(f"--path {real}: {why}")
        found.append(real)
    return tuple(dict.fromkeys(found))


def enter(reach: Reach, wish: Wish, key: str) -> tuple[AgentStation, Joined, Domain]:
    """Join as the domain's agent; at a terminal an unknown domain is made in one step. Raises Refused, Unavailable."""
    owner = _owner(reach, wish)
    token = _token(reach, wish, owner)
    station = AgentStation(reach, token)
    try:
        joined = station.join()
    except (Unauthenticated, PermissionDenied) as error:
        raise Refused(
            f"the token of {owner} is not good any more; `calyx agent invite {owner} --domain {wish.domain} --renew`"
        ) from error
    domain = joined.domains.get(wish.domain)
    if domain is None:
        raise Refused(f"{wish.domain} is not open to {owner} now; `calyx domain show {wish.domain}` says why")
    outside = [each for each in wish.paths if not any(each.is_relative_to(path) for path in domain.paths)]
    if outside:
        raise Refused(
            f"{outside[0]} is not among the folders of {wish.domain} "
            f"({', '.join(map(str, domain.paths)) or 'it has none'}); `calyx domain new` declares a domain that has it"
        )
    return station, joined, domain


def _owner(reach: Reach, wish: Wish) -> str:
    from calyx.cbo.v1 import cbo_pb2 as pb

    known = {each.domain: each.owner for each in reach.cbo().ListDomains(pb.ListDomainsRequest()).domains}
    if wish.domain in known:
        return str(known[wish.domain])
    paths = " ".join(f"--path {shlex.quote(str(each))}" for each in wish.paths)
    typed = " ".join(
        f"calyx domain new {shlex.quote(wish.domain)} --owner {shlex.quote(wish.domain)} {paths} --undo-by governor "
        f"{'' if wish.paths else '--no-rehearse'} --sign --approve".split()
    )
    if not at_terminal():
        raise Refused(f"there is no domain {wish.domain}; make it with: {typed}")
    where = ", ".join(map(str, wish.paths)) or "no folder: its commands may write to their scratch folder only"
    if not yes(
        f"calyx run: there is no domain {wish.domain} yet. Make it now, signed with your key?\n"
        f"  may change: {where}\n  starts at GUIDE: each run asks you first, until its results have earned more"
    ):
        raise Refused(f"there is no domain {wish.domain}")
    from cli import domains

    domains.create(
        reach, wish.domain, owner=wish.domain, paths=[str(each) for each in wish.paths],
        effects="reversible" if wish.paths else "none", undo_by="governor", rehearses=bool(wish.paths),
        ttl=wish.ttl or timedelta(hours=1),
    )  # fmt: skip
    return wish.domain


def _token(reach: Reach, wish: Wish, owner: str) -> str:
    """The agent's token; the first `calyx run` of a domain invites its agent. Raises Refused."""
    from calyx.cbo.v1 import cbo_pb2 as pb

    vault = secrets_of(reach) / "agents"
    try:
        return load_token(vault, owner)
    except NotFound:
        pass
    try:
        made = reach.cbo().InviteAgent(pb.InviteAgentRequest(agent=owner, domains=[wish.domain]))
    except CalyxError as error:
        raise Refused(
            f"there is no token of {owner} on this machine ({error.message}); "
            f"`calyx agent invite {owner} --domain {wish.domain} --renew` makes one"
        ) from error
    keep_token(vault, owner, made.token)
    return str(made.token)


def keep_token(vault: Path, owner: str, token: str) -> None:
    """0600, in a folder of 0700."""
    from chassis.atomic import write_whole

    vault.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(vault / f"{owner}.token", token.encode() + b"\n", mode=0o600)


def agree(reach: Reach, station: Governing, wish: Wish, task: TaskSeen) -> TaskSeen:
    """The task that may be claimed: this one, or what a person's yes makes of it. Raises Refused."""
    if task.ended and not task.approved_as:
        raise Refused(f"{task.id} is {task.state}: {task.reason or 'no reason given'}")
    if task.waits_for_person:
        return _ask(reach, station, wish, task)
    if task.state == "held":
        return _waited(reach, station, wish, task, f"{task.id} is held: {task.reason}")
    return _follow(station, task)


def _ask(reach: Reach, station: Governing, wish: Wish, task: TaskSeen) -> TaskSeen:
    from calyx.cbo.v1 import cbo_pb2 as pb

    if task.level not in ("GUIDE", "EXECUTE"):
        withdraw(reach, task.id, "nothing runs at this level")
        raise Refused(
            f"{wish.domain} stands at {task.level}, where nothing runs ({task.reason}); "
            f"`calyx ladder set {wish.domain} GUIDE --why …` raises it"
        )
    if not at_terminal() or wish.wait_seconds > 0:
        how = f"calyx task approve {task.id}"
        return _waited(reach, station, wish, task, f"{task.id} needs a person's yes ({task.reason}): {how}")
    where = ", ".join(map(str, wish.paths)) or "its scratch folder only"
    gates = reach.cbo().GetTask(pb.GetTaskRequest(id=task.id)).task.gates
    said = "; ".join(f"{each.gate.replace('_', ' ')}: {each.answer}" for each in gates)
    if not yes(
        f"calyx run: {wish.domain} stands at {task.level}, so you are asked first.\n"
        f"  command: {wish.command}\n  in:      {Path.cwd()}\n  changes: {where}\n  gates:   {said}\nRun it?"
    ):
        withdraw(reach, task.id, "no at the terminal")
        raise Refused("you said no")
    approved = reach.cbo().ApproveTask(pb.ApproveTaskRequest(id=task.id)).task
    return _follow(station, replace(task, approved_as="" if approved.id == task.id else approved.id))


def approval(reach: Reach, station: Governing, wish: Wish, task_id: str, digest: str, plan: Sequence[str]) -> TaskSeen:
    """The task that may apply a rehearsed plan, once a person has seen and approved it. Raises Refused."""
    from calyx.cbo.v1 import cbo_pb2 as pb

    for line in plan:
        note(line)
    if not at_terminal() or wish.wait_seconds > 0:
        seen = station.await_task(task_id, "", 0)
        why = f"{task_id} was rehearsed, nothing is changed; it needs a person's yes: calyx task approve {task_id}"
        return _waited(reach, station, wish, seen, why)
    if not yes("calyx run: that is what it did in the rehearsal; nothing is changed so far. Do exactly that?"):
        withdraw(reach, task_id, "no at the terminal")
        raise Refused("you said no; nothing was changed")
    for attempt in range(_PROBED_WITHIN):
        reach.cbo().RunPulse(pb.RunPulseRequest(), timeout=60)  # a plan is approved once it has been probed
        seen = station.await_task(task_id, "", 0)
        if seen.state != "rehearsed":
            raise Refused(f"{task_id} is {seen.state}: {seen.reason or 'no reason given'}; nothing was changed")
        try:
            approved = reach.cbo().ApproveTask(pb.ApproveTaskRequest(id=task_id, plan_digest=digest)).task
        except Refused:
            if attempt + 1 == _PROBED_WITHIN:
                raise
            continue
        return station.await_task(approved.id, "", 0)
    raise AssertionError("unreachable")


def _waited(reach: Reach, station: Governing, wish: Wish, task: TaskSeen, why: str) -> TaskSeen:
    """Wait as long as was allowed for a yes or a release; nothing is left behind when that does not come."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed  # only who waits needs it

    if wish.wait_seconds <= 0:
        withdraw(reach, task.id, "nobody was there to wait for it")
        raise Refused(f"{why}; run it at a terminal, or give --wait 5m to wait for the answer")
    note(f"calyx run: {why}; waiting")
    ends = reach.clock.monotonic() + wish.wait_seconds
    while (left := ends - reach.clock.monotonic()) > 0:
        # An overseer that starts again still knows what waits.
        asking = Retrying(
            retry=retry_if_exception_type((Unavailable, DeadlineExceeded)),
            wait=wait_fixed(min(left, AGAIN_SECONDS)),
            stop=stop_after_delay(left),
            before_sleep=lambda _: note(f"calyx run: the overseer does not answer; still waiting for {task.id}"),
            reraise=True,
        )
        found = asking(station.await_task, task.id, task.state, min(left, WAIT_SECONDS))
        if found.approved_as or (not found.waits_for_person and found.state != "held"):
            if found.ended and not found.approved_as:
                raise Refused(f"{found.id} is {found.state}: {found.reason or 'no reason given'}")
            return _follow(station, found)
    withdraw(reach, task.id, "the wait was over")
    raise Refused(f"no answer within {wish.wait_seconds:.0f} s; {task.id} was withdrawn")


def _follow(station: Governing, task: TaskSeen) -> TaskSeen:
    return station.await_task(task.approved_as, "", 0) if task.approved_as else task


def withdraw(reach: Reach, task_id: str, why: str) -> None:
    """Nobody will claim it any more. It ends with its time if the station can't be told."""
    from calyx.cbo.v1 import cbo_pb2 as pb

    try:
        state = reach.cbo().GetTask(pb.GetTaskRequest(id=task_id)).task.state
        if state in ("proposed", "rehearsed"):
            reach.cbo().RejectTask(pb.RejectTaskRequest(id=task_id, why=f"calyx run: {why}"))
        else:
            reach.cbo().CancelTask(pb.CancelTaskRequest(id=task_id, why=f"calyx run: {why}"))
    except CalyxError as error:
        note(f"calyx run: {task_id} could not be withdrawn: {error.message}")


def check_command(argv: Sequence[str]) -> None:
    """Raises InvalidInput."""
    if not argv or not argv[0]:
        raise InvalidInput("name a command: calyx run --domain notes -- sh -c 'echo hello'")
