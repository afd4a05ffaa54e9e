"""Tells people elsewhere that something waits for them: at least once per target, off the pulse's path."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from chassis.canonical import Json
from chassis.clock import iso, parse_iso
from chassis.errors import NotFound
from services.cbo.bridge import Bridge
from services.cbo.notify_targets import NotSent, Send, Target, Targets
from services.cbo.waiting import Item, Waiting

log = structlog.get_logger(__name__)

MOST = 200
"""Notices that wait for one target; beyond them the oldest is dropped, which is audited."""
TRIES = 2
AGAIN_SECONDS, AGAIN_MOST_SECONDS = 30.0, 3600.0
KEPT = timedelta(days=30)
TITLES: Mapping[str, str] = {
    "approval": "a plan waits for your answer",
    "proposal": "a proposal waits for your answer",
    "renewal": "a domain ends soon",
    "regression": "what a task changed did not hold and could not be undone",
    "quarantine": "a service is in quarantine",
    "incident": "a critical fault is open",
    "kill_switch": "the station is stopped",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A target that does not take what it is sent. `why` never holds its address."""

    failing_since: datetime
    tries: int
    again_at: datetime
    why: str

    def to_json(self) -> Json:
        return {"failing_since": iso(self.failing_since), "tries": self.tries, "again_at": iso(self.again_at),
                "why": self.why}  # fmt: skip

    @classmethod
    def from_json(cls, value: Json) -> "Standing":
        return cls(
            failing_since=parse_iso(str(value["failing_since"])),
            tries=int(value["tries"]),
            again_at=parse_iso(str(value["again_at"])),
            why=str(value["why"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One target in a test."""

    name: str
    kind: str
    sent: bool
    detail: str


class Notifier:
    """`step` is called by one thread at a time. What is to be told lies in the database until its target took it: a
    crash between the two tells it twice, never not at all."""

    def __init__(self, bridge: Bridge, waiting: Waiting, targets: Targets, send: Send, page: Callable[[], str]) -> None:
        self._bridge, self._waiting, self._targets, self._send, self._page = bridge, waiting, targets, send, page
        self._turn = threading.Lock()

    def step(self) -> None:
        """End what nobody answered, write down what is new, send what is due."""
        self._waiting.expire()
        self._waiting.look()
        with self._turn:
            targets = self._targets.here()
            self._forget({each.name for each in targets})
            if targets:
                items, _ = self._waiting.items()
                self._write(items, targets)
                for target in targets:
                    self._deliver(target)

    def test(self, only: str = "") -> list[Tried]:
        """One try each, now, also to those that are failing. Raises NotFound for a name that is not there."""
        targets = [each for each in self._targets.here() if only in ("", each.name)]
        if only and not targets:
            raise NotFound(
                f"there is no target {only[:60]!r} in {self._targets.path.name}; `calyx notify test` tries them all"
            )
        found = []
        for target in targets:
            why = target.fault
            if not why:
                try:
                    self._send(target, "Station Calyx: a test", f"It reaches you.\n{self._page()}")
                except NotSent as error:
                    why = str(error)
            self._bridge.audit.write("notify.tested", target=target.name, sent=not why, why=why)
            if not why:
                self._well(target.name)
            found.append(Tried(name=target.name, kind=target.kind, sent=not why, detail=why))
        return found

    def _write(self, items: Sequence[Item], targets: Sequence[Target]) -> None:
        store, now = self._bridge.store, self._bridge.clock.now()
        known = {(row["key"], row["target"]): row["state"] for row in store.rows("notices")}
        there = {each.key for each in items}
        with store.transaction():
            for (key, target), state in known.items():
                if key not in there and (state == "waiting" or key.startswith(("objective:", "task:"))):
                    store.run("notice_drop", key, target)  # answered: when it waits again, that is news
            for target in targets:
                fresh = [each for each in reversed(items) if (each.key, target.name) not in known]
                for item in fresh:
                    title, body = words(item, self._page())
                    store.run("notice_insert", item.key, target.name, title, body, iso(now))
            store.run("notices_forget", iso(now - KEPT), json.dumps(sorted(there)))
        for target in targets:
            dropped = store.run("notices_bound", target.name, target.name, MOST)
            if dropped:
                self._bridge.audit.write("notify.dropped", target=target.name, count=dropped, why=f"{MOST} wait for it")

    def _deliver(self, target: Target) -> None:
        """Oldest first, until one is not taken: then the target rests, longer each time."""
        bridge = self._bridge
        standing = self._standing(target.name)
        if standing is not None and bridge.clock.now() < standing.again_at:
            return
        for row in bridge.store.rows("notices_due", target.name):
            try:
                if target.fault:
                    raise NotSent(target.fault)
                self._retrying(target, row["title"], row["body"])
            except NotSent as error:
                self._failed(target, standing, str(error))
                return
            bridge.store.run("notice_sent", iso(bridge.clock.now()), row["key"], target.name)
            bridge.audit.write("notify.sent", about=row["key"], target=target.name)
            self._well(target.name)

    def _retrying(self, target: Target, title: str, body: str) -> None:
        for attempt in Retrying(
            stop=stop_after_attempt(TRIES),
            wait=wait_exponential(multiplier=0.5, max=4),
            retry=retry_if_exception_type(NotSent),
            sleep=self._rest,
            reraise=True,
        ):
            with attempt:
                self._send(target, title, body)

    def _rest(self, seconds: float) -> None:
        self._bridge.clock.wait(seconds)

    def _failed(self, target: Target, before: Standing | None, why: str) -> None:
        now = self._bridge.clock.now()
        tries = 1 if before is None else before.tries + 1
        rest = timedelta(seconds=min(AGAIN_MOST_SECONDS, AGAIN_SECONDS * 2 ** min(tries - 1, 10)))
        standing = Standing(failing_since=now, tries=tries, again_at=now + rest, why=why)
        if before is not None:
            standing = replace(standing, failing_since=before.failing_since)
        else:
            log.warning("a notification was not taken", target=target.name, why=why)
            self._bridge.audit.write("notify.failing", target=target.name, why=why)
        self._bridge.store.set_fact(f"notify:{target.name}", json.dumps(standing.to_json()))

    def _standing(self, name: str) -> Standing | None:
        text = self._bridge.store.fact(f"notify:{name}")
        return Standing.from_json(json.loads(text)) if text else None

    def _well(self, name: str) -> None:
        if self._bridge.store.run("fact_drop", f"notify:{name}"):
            self._bridge.audit.write("notify.recovered", target=name)

    def _forget(self, names: set[str]) -> None:
        """Targets that a person took out of the file."""
        store = self._bridge.store
        for name, _ in store.rows("facts_like", "notify:"):
            if name.removeprefix("notify:") not in names:
                store.run("fact_drop", name)


def words(item: Item, page: str) -> tuple[str, str]:
    """Title and text. What others wrote is quoted, shortened and without control characters."""
    said = "".join(each if each.isprintable() else " " for each in item.title)[:300]
    kind = f" ({item.domain})" if item.domain else ""
    until = f"\nTo be answered until {iso(item.until)[:16]} UTC." if item.until is not None and item.task else ""
    link = f"{page}/#task-{item.id}" if item.task is not None else page
    commands = "\n".join(item.commands)
    return f"Station Calyx: {TITLES[item.kind]}{kind}", f'"{said}"{until}\n{commands}\n{link}'
