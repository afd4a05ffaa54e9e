"""Wishes from outside become tasks: gated like any other, durable before they are sent, one task a key."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from chassis.canonical import sha256_hex
from chassis.domains import DomainManifest
from chassis.errors import CalyxError, InvalidInput, NotFound, PermissionDenied, Refused, ResourceExhausted
from chassis.exchange.manifest import TaskId
from chassis.rng import Rng
from services.cbo import objectives
from services.cbo.bridge import Bridge
from services.cbo.choosing import choose_for, level_of
from services.cbo.dispatch import Dispatcher
from services.cbo.ports import Recollection
from services.cbo.tasks import STATE_OF, Task, proposed_id

MAX_OPEN = 200
"""Tasks of one owner that have not ended; beyond them a proposal is refused, not queued."""
MAX_KEY = 200
MAX_PARAMS, MAX_PARAM_CHARS, MAX_PARAMS_CHARS = 64, 16_384, 65_536
MIN_TTL_SECONDS = 1.0
SILENT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody outside wants done. `source`: agent:<name> or inbox. `ttl_seconds` None: the domain's own."""

    source: str
    domain: str
    objective: str
    key: str
    procedure: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    ttl_seconds: float | None = None


class Proposals:
    """Thread-safe. Nothing here is special for outside agents but the bounds: the gates are everybody's."""

    def __init__(self, bridge: Bridge, dispatcher: Dispatcher) -> None:
        self._bridge, self._dispatcher = bridge, dispatcher
        self._turn = threading.Lock()
        self._silent_until = 0.0

    def make(self, wish: Wish, owner: str = "") -> Task:
        """The task, whatever the gates made of it. `owner`: the domain has to be this agent's.

        A wish that waits for a person already is not made again: it is that task. Raises InvalidInput, NotFound (no
        such domain), PermissionDenied (somebody else's), Refused (the same words wait with other params),
        ResourceExhausted (too many open tasks).
        """
        bridge = self._bridge
        _check(wish)
        task_id = proposed_id(bridge.station_id, wish.source, wish.key)
        if (known := self._known(task_id)) is not None:
            return known
        manifest = bridge.domains.get(wish.domain)
        if manifest is None:
            raise NotFound(f"there is no domain {wish.domain[:120]} on this station; sign its manifest and approve it")
        if owner and manifest.owner != owner:
            raise PermissionDenied(f"{wish.domain} is done by {manifest.owner}, not by {owner}")
        if missing := bridge.artifacts.missing(wish.params):
            raise InvalidInput(missing)
        made = self._planned(wish, manifest, task_id)
        if (known := self._admitted(made)) is not None:
            return known
        task, gated = self._dispatcher.gate(made)
        state = STATE_OF[gated.verdict]
        task = replace(task, state=state, why="" if state == "ready" else gated.reason)
        with self._turn:
            if (known := self._known(task_id) or self._admitted(task)) is not None:
                return known
            bridge.store.add_task(task)
        bridge.audit.write(
            "policy.blocked" if gated.verdict == "refuse" else "task.proposed", task=task.id, domain=task.domain,
            by=wish.source, state=state, why=gated.reason,
        )  # fmt: skip
        if state == "ready":
            self._dispatcher.send([task])
        return bridge.store.task(task.id)

    def _known(self, task_id: str) -> Task | None:
        rows = self._bridge.store.rows("alias", task_id)
        return self._bridge.store.find_task(rows[0]["task_id"] if rows else task_id)

    def _admitted(self, made: Task) -> Task | None:
        """None when there is room for it; the same wish, if it waits for a person already."""
        store = self._bridge.store
        waiting = next(iter(store.tasks("tasks_waiting_like", made.objective_id)), None)
        if waiting is not None and waiting.state == "proposed":
            if (waiting.params, waiting.source) != (made.params, made.source):
                raise Refused(
                    f"{waiting.id} waits for a person with the same words and other params; wait for its answer",
                    task=waiting.id,
                )
            store.run("alias_insert", made.id, waiting.id)
            return waiting
        if len(store.rows("tasks_of_owner", made.owner, MAX_OPEN)) >= MAX_OPEN:
            raise ResourceExhausted(f"{made.owner} has {MAX_OPEN} tasks that have not ended; nothing was taken in")
        return None

    def _planned(self, wish: Wish, manifest: DomainManifest, task_id: TaskId) -> Task:
        """As the pulse plans: recall, a procedure by its posterior, a prediction before the act."""
        bridge, now = self._bridge, self._bridge.clock.now()
        params = {**manifest.params, **wish.params}
        pinned = wish.procedure or params.get("procedure", "")
        params.pop("procedure", None)
        recalled = self._recall(wish)
        choice = choose_for(
            bridge,
            manifest,
            (pinned,) if pinned else manifest.procedures,
            recalled.summaries,
            rng=Rng.of(bridge.station_id, task_id),
            decision=task_id,
            now=now,
        )
        return Task(
            id=task_id,
            domain=manifest.domain,
            procedure=choice.procedure,
            owner=manifest.owner,
            state="ready",
            level=level_of(choice, bridge.ladder.standing(manifest.domain).level),
            created_at=now,
            objective_id=_objective_id(wish),
            objective=wish.objective.strip(),
            params=params,
            prediction=choice.prediction,
            choices=choice.draws,
            recalled=tuple(each.to_json() for each in recalled.matches),
            source=wish.source,
            ttl_seconds=wish.ttl_seconds,
        )

    def _recall(self, wish: Wish) -> Recollection:
        """As in a pulse: without memory the posterior alone decides. A silent one is not asked again at once."""
        bridge = self._bridge
        if bridge.clock.monotonic() < self._silent_until:
            return Recollection()
        try:
            return bridge.peers.memory.recall(
                wish.objective, wish.domain, bridge.options.recall_limit, bridge.beliefs.recent(wish.domain)
            )
        except CalyxError:
            self._silent_until = bridge.clock.monotonic() + SILENT_SECONDS
            return Recollection()


def _objective_id(wish: Wish) -> str:
    """One for each domain and text: a newer rehearsal of it answers the older proposal, as for a repeated objective."""
    return f"o-p-{sha256_hex(chr(0).join((wish.domain, wish.objective.strip())).encode())[:20]}"


def _check(wish: Wish) -> None:
    objectives.check(wish.objective, objectives.ONCE)
    if not wish.key.strip() or len(wish.key) > MAX_KEY:
        raise InvalidInput(f"a proposal needs an idempotency_key of 1 to {MAX_KEY} characters")
    if len(wish.params) > MAX_PARAMS or sum(len(k) + len(v) for k, v in wish.params.items()) > MAX_PARAMS_CHARS:
        raise InvalidInput(f"at most {MAX_PARAMS} params of {MAX_PARAMS_CHARS} characters together are taken")
    if any(len(value) > MAX_PARAM_CHARS for value in wish.params.values()):
        raise InvalidInput(f"a param has at most {MAX_PARAM_CHARS} characters")
    if wish.ttl_seconds is not None and not wish.ttl_seconds >= MIN_TTL_SECONDS:  # NaN is refused too
        raise InvalidInput(f"a ttl is at least {MIN_TTL_SECONDS:g} s")
    try:
        texts = "".join((wish.objective, wish.procedure, wish.key, *wish.params, *wish.params.values()))
        texts.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("it holds half a character (a lone surrogate), which no record can") from error
