"""What may still be believed: judgements, the floor learned from them, standings, and eviction by evidence."""

import math
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np

from chassis.audit import Audit
from chassis.clock import Clock, iso, parse_iso
from chassis.errors import InvalidInput, Refused
from services.memory.catalog import Standing
from services.memory.commits import Change
from services.memory.embedding import check_vectors
from services.memory.eviction import Evidence, weigh
from services.memory.experience import MAX_EVIDENCE, MAX_WORD, Experience, check_objective, check_text
from services.memory.faults import explained
from services.memory.feedback import Floor, Label, Tally, Verdict
from services.memory.inserts import seq_of
from services.memory.members import read
from services.memory.queries import SQL
from services.memory.shelf import Shelf
from services.memory.store import Store

ITSELF = "memory"
"""The caller of a standing that follows from evidence alone."""

MAX_REASON = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Where an experience stands by its newest row; `event` is its number, `because_of` the id that supersedes it."""

    event: int
    standing: Standing
    because_of: str
    reason: str
    caller: str
    recorded_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What became of a judgement: how many count by now, and where the experience stands after it."""

    labels: int
    standing: Standing
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """`precision` is the share of labels that say useful, None without any."""

    labels: int
    precision: float | None
    evicted: int
    floor: Floor


class Trust:
    """Blocking and thread-safe. Everything here follows from append-only rows, so all of it can be taken back.

    A judgement counts once for each caller and task, or without a task once for each caller and question; the newest
    counts. An experience that a person reinstates is judged by what is said after that alone.
    """

    def __init__(self, *, store: Store, shelf: Shelf, clock: Clock, audit: Audit) -> None:
        self._store, self._shelf, self._clock, self._audit = store, shelf, clock, audit
        self._judging = threading.Lock()
        self.reload()

    def reload(self) -> None:
        """Take everything from the store again: at the start, and after another file was put in its place."""
        with self._judging:
            with self._reading() as connection:
                self._doubted = {row["event"]: _stand_of(row) for row in connection.execute(SQL["doubted"])}
                judged = connection.execute(SQL["judged_events"]).fetchall()
                self._harm = {event: _weighed(connection, event).harmful for (event,) in judged}
                self._tally = Tally(_labels(connection))
            self._figures = self._counted()

    @property
    def floor(self) -> float:
        """What recall must be above: 0.80, or higher if feedback says so."""
        return self._figures.floor.value

    @property
    def figures(self) -> Figures:
        return self._figures

    def doubt(self, seq: int) -> Stand | None:
        """Why this experience may not simply be believed; None if it may."""
        return self._doubted.get(seq)

    def harm(self, seq: int) -> int:
        """How many judgements that count for eviction say harmful."""
        return self._harm.get(seq, 0)

    def judge(
        self, event_id: str, verdict: Verdict, *, query: str, cosine: float | None, task_id: str, caller: str
    ) -> Judged:
        """Keep a judgement and what follows from it, in one commit; a repeat changes nothing.

        Without a cosine, that of `query` (if told) with the experience's objective is used. Raises NotFound.
        """
        check_text(query, "query", MAX_EVIDENCE, lines=True)
        check_text(task_id, "task_id", MAX_WORD)
        if cosine is not None and not (math.isfinite(cosine) and -1.0 <= cosine <= 1.0):
            raise InvalidInput(f"cosine is {cosine}; it must be between -1 and 1, or left unset when it is unknown")
        if cosine is None and query.strip():
            cosine = self._cosine(event_id, query)
        clock = iso(self._clock.now())

        def work(connection: sqlite3.Connection) -> Change[tuple[Label | None, Stand, Stand | None, Evidence]]:
            event = seq_of(connection, event_id)
            now = _after_all(connection, event, clock)
            label = Label(
                event=event, verdict=verdict, query=query, cosine=cosine, task_id=task_id, caller=caller,
                recorded_at=now,
            )  # fmt: skip
            row = {**asdict(label), "verdict": verdict.value}
            known = connection.execute(SQL["label_newest"], row).fetchone()
            fresh = (known[0] if known else Verdict.WITHDRAWN.value) != verdict.value
            entries: list[Mapping[str, Any]] = []
            if fresh:
                number = connection.execute(SQL["insert_label"], row).lastrowid
                entries.append({**row, "kind": "feedback", "seq": number, "id": event_id})
            before, evidence = _standing(connection, event), _weighed(connection, event)
            after = _following(connection, before, evidence, now)
            if after is not None:
                entries.append(_insert(connection, after, event_id))
            return Change(
                result=(label if fresh else None, before, after, evidence),
                entries=tuple(entries),
                day=now[:10] if entries else "",
                then=lambda: self._take(after or before, evidence.harmful),
            )

        with self._judging:
            fresh, before, after, evidence = self._store.commit("judge", work)
            if fresh is not None:
                self._tally.put(fresh)
                self._recount()
                self._audit.write(
                    "memory.feedback", id=event_id, verdict=verdict.value, caller=caller, task=task_id,
                    labels=self._figures.labels,
                )  # fmt: skip
            if after is not None:
                self._told(event_id, after)
        found = after or before
        reason = found.reason if found.standing is not Standing.VALID else evidence.reason
        return Judged(labels=self._figures.labels, standing=found.standing, reason=reason)

    def stand(self, event_id: str, standing: Standing, *, because_of: str, reason: str, caller: str) -> bool:
        """Say that an experience may, or may no longer, be believed; False if it stood so already.

        Raises InvalidInput, Refused and NotFound. Eviction is left to evidence; `valid` takes anything back.
        """
        check_text(because_of, "because_of", MAX_WORD)
        check_text(reason, "reason", MAX_REASON)
        if standing is Standing.EVICTED:
            raise InvalidInput("only harm that was reported evicts; say invalidated, with the reason")
        if (standing is Standing.SUPERSEDED) != bool(because_of):
            raise InvalidInput("superseded needs because_of, the experience that replaces it; nothing else takes one")
        if standing is Standing.INVALIDATED and not reason.strip():
            raise InvalidInput("invalidated needs a reason: what is wrong with it")
        if because_of == event_id:
            raise InvalidInput("an experience can't supersede itself; name the one that replaces it")
        clock = iso(self._clock.now())

        def work(connection: sqlite3.Connection) -> Change[Stand | None]:
            event = seq_of(connection, event_id)
            if because_of:
                _check_successor(connection, event, seq_of(connection, because_of), because_of)
            before = _standing(connection, event)
            if (before.standing, before.because_of) == (standing, because_of):
                return Change(result=None)
            now = _after_all(connection, event, clock)
            after = Stand(
                event=event, standing=standing, because_of=because_of, reason=reason, caller=caller, recorded_at=now
            )
            entry = _insert(connection, after, event_id)
            evidence = _weighed(connection, event)
            follow = partial(self._take, after, evidence.harmful)
            return Change(result=after, entries=(entry,), day=now[:10], then=follow)

        with self._judging:
            after = self._store.commit("set a standing", work)
            if after is not None:
                self._told(event_id, after)
        return after is not None

    def listed(self, standing: Standing | None, limit: int) -> list[tuple[Experience, Stand]]:
        """What is not simply valid, newest first; damaged rows are left out (verify names them)."""
        wanted = sorted(self._doubted.values(), key=lambda each: (each.recorded_at, each.event), reverse=True)
        wanted = [each for each in wanted if standing in (None, each.standing)][:limit]
        stored = self._store.experiences([each.event for each in wanted])
        return [
            (stored[each.event].experience, each)
            for each in wanted
            if each.event in stored and not stored[each.event].damage
        ]

    def _cosine(self, event_id: str, query: str) -> float | None:
        check_objective(query)
        embedder = self._shelf.embedder
        with self._reading() as connection:
            stored = read(connection, [seq_of(connection, event_id)])
        texts = [query, *(each.experience.objective for each in stored if not each.damage)]
        if len(texts) < 2:
            return None
        one, other = check_vectors(embedder.embed(texts), embedder.dimension)
        return float(np.clip(one @ other, -1.0, 1.0))

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with closing(self._store.snapshot()) as connection, explained("read judgements", self._store.path):
            connection.execute("BEGIN")
            yield connection

    def _take(self, stand: Stand, harmful: int) -> None:
        """Take a durable row up in RAM; runs under the shelf's `change`."""
        self._shelf.stand(stand.event, stand.standing)
        self._harm[stand.event] = harmful
        if stand.standing is Standing.VALID:
            self._doubted.pop(stand.event, None)
        else:
            self._doubted[stand.event] = stand

    def _told(self, event_id: str, stand: Stand) -> None:
        self._recount()
        self._audit.write(
            "memory.standing", id=event_id, standing=stand.standing.value, because_of=stand.because_of,
            reason=stand.reason, caller=stand.caller,
        )  # fmt: skip

    def _recount(self) -> None:
        before, self._figures = self._figures.floor, self._counted()
        after = self._figures.floor
        if after.value != before.value:
            self._audit.write("memory.floor", before=before.value, after=after.value, reason=after.reason)

    def _counted(self) -> Figures:
        labels = len(self._tally)
        return Figures(
            labels=labels,
            precision=self._tally.useful / labels if labels else None,
            evicted=sum(each.standing is Standing.EVICTED for each in list(self._doubted.values())),
            floor=self._tally.floor(),
        )


def in_words(stand: Stand) -> str:
    """By whom and why an experience may not simply be believed."""
    what = f"{stand.standing.value} by {stand.because_of}" if stand.because_of else stand.standing.value
    return f"{what} (said {stand.caller})" + (f": {stand.reason}" if stand.reason else "")


def _following(connection: sqlite3.Connection, before: Stand, evidence: Evidence, now: str) -> Stand | None:
    """The standing that evidence asks for, None if it is the one there is."""
    if evidence.evict and before.standing is not Standing.EVICTED:
        return Stand(
            event=before.event, standing=Standing.EVICTED, because_of="", reason=evidence.reason, caller=ITSELF,
            recorded_at=now,
        )  # fmt: skip
    if before.standing is Standing.EVICTED and not evidence.evict:
        row = connection.execute(SQL["standing_before_eviction"], (before.event,)).fetchone()
        was = _plain(before.event) if row is None else _stand_of(row)
        reason = was.reason or f"judgements were taken back: {evidence.reason}"
        return Stand(
            event=was.event, standing=was.standing, because_of=was.because_of, reason=reason, caller=ITSELF,
            recorded_at=now,
        )  # fmt: skip
    return None


def _check_successor(connection: sqlite3.Connection, event: int, successor: int, because_of: str) -> None:
    """The one that supersedes must be of the same namespace and may be believed itself, so that none go in a circle."""
    spaces = {connection.execute(SQL["namespace_of"], (seq,)).fetchone()[0] for seq in (event, successor)}
    if len(spaces) > 1:
        raise Refused(f"{because_of} is of another namespace; only an experience of the same one supersedes")
    stands = _standing(connection, successor)
    if stands.standing is not Standing.VALID:
        raise Refused(f"{because_of} is {stands.standing.value} itself; name one that is valid")


def _after_all(connection: sqlite3.Connection, event: int, now: str) -> str:
    """Now, or right after what was last said of it if the clock was set back: what came later must look later."""
    (said,) = connection.execute(SQL["said_last"], (event,)).fetchone()
    return now if said is None or said < now else iso(parse_iso(said) + timedelta(microseconds=1))


def _plain(event: int) -> Stand:
    return Stand(event=event, standing=Standing.VALID, because_of="", reason="", caller="", recorded_at="")


def _standing(connection: sqlite3.Connection, event: int) -> Stand:
    row = connection.execute(SQL["standing_of"], (event,)).fetchone()
    return _plain(event) if row is None else _stand_of(row)


def _stand_of(row: "sqlite3.Row | tuple[Any, ...]") -> Stand:
    event, standing, because_of, reason, caller, recorded_at = row
    return Stand(
        event=event, standing=Standing(standing), because_of=because_of, reason=reason, caller=caller,
        recorded_at=recorded_at,
    )  # fmt: skip


def _insert(connection: sqlite3.Connection, stand: Stand, event_id: str) -> Mapping[str, Any]:
    row = {**asdict(stand), "standing": stand.standing.value}
    number = connection.execute(SQL["insert_standing"], row).lastrowid
    return {**row, "kind": "standing", "seq": number, "id": event_id}


def _weighed(connection: sqlite3.Connection, event: int) -> Evidence:
    return weigh(Verdict(verdict) for (verdict,) in connection.execute(SQL["labels_since"], (event, ITSELF)))


def _labels(connection: sqlite3.Connection) -> list[Label]:
    names = ("event", "verdict", "query", "cosine", "task_id", "caller", "recorded_at")
    return [
        Label(**{**dict(zip(names, row, strict=True)), "verdict": Verdict(row[1])})
        for row in connection.execute(SQL["labels"])
    ]
