"""The station's past for the time machine: from the CBO's database, or from the pulse records alone."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from chassis.canonical import Json
from chassis.clock import iso
from chassis.errors import Damaged
from chassis.policy import DAY
from services.cbo.autonomy_evaluator import Standing
from services.cbo.gate_log import Entry
from services.cbo.ladder_log import Taken
from services.cbo.store import Store

PAGE = 500
RECORDED = "gates_recorded"
"""The fact that says up to which question the pulse records hold them."""

End = Literal["well", "badly", "undone", "no work", "unknown", "cancelled", "not run", "open"]
"""How a task ended. well: the best that its level allows, and it held so far. not run: refused, or never sent."""
ENDS: tuple[End, ...] = ("well", "badly", "undone", "no work", "unknown", "cancelled", "not run", "open")


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What was asked, what came of it, and what the ladder took in. `standings` are those before `ladder` begins."""

    entries: Iterable[Entry]
    ends: Mapping[str, End]
    ladder: Iterable[tuple[int, Taken]] = ()
    standings: Mapping[str, Standing] = field(default_factory=dict)


def hand_over(store: Store) -> Json:
    """For the pulse record, inside its transaction: what the gates were asked since the last one."""
    after = int(store.fact(RECORDED) or 0)
    entries = [json.loads(row["entry"]) for row in store.rows("gate_entries_after", after)]
    store.set_fact(RECORDED, str(after + len(entries)))
    return {"after": after, "entries": entries}


def forget(store: Store, before: datetime) -> None:
    """Let go of questions older than that which the pulse records hold."""
    store.run("gate_entries_forget", iso(before), int(store.fact(RECORDED) or 0))


def end_of(state: str, *, scored: bool, worked: bool, tes: float | None, stability: float | None) -> End:
    """In one word. A rehearsal that was answered or overtaken later is what it scored."""
    if state in ("undone", "cancelled"):
        return "undone" if state == "undone" else "cancelled"
    if state in ("failed", "dead") or (state == "expired" and not scored):
        return "badly"
    if not scored:
        return "not run" if state in ("held", "proposed", "rejected") else "open"
    if not worked:
        return "no work"
    if tes is None or stability is None:
        return "unknown"
    return "well" if stability == 1.0 else "badly"


def from_store(
    store: Store, since: datetime, ladder_after: int = 0, standings: Mapping[str, Standing] | None = None
) -> History:
    """Since a day before then: budgets look back as far. `standings` are those after entry `ladder_after`."""
    begin = iso(since - DAY)
    before = int(store.rows("gate_entries_before", begin)[0][0])
    regressed = {row["task_id"] for row in store.rows("regressed")}
    ends: dict[str, End] = {}
    for row in store.rows("gate_entry_ends", begin):
        ends[row["id"]] = "badly" if row["id"] in regressed and row["state"] != "undone" else end_of(
            row["state"], scored=bool(row["scored"]), worked=bool(row["worked"]), tes=row["tes"],
            stability=row["stability"],
        )  # fmt: skip
    return History(
        entries=(Entry.from_json(body) for _, body in _pages(store, "gate_entries_page", before)),
        ends=ends,
        ladder=((number, Taken.from_json(body)) for number, body in _pages(store, "ladder_entries_page", ladder_after)),
        standings={} if standings is None else standings,
    )


def _pages(store: Store, query: str, after: int) -> Iterator[tuple[int, Any]]:
    """Entry by entry, read in pages, so that neither memory nor the database's lock is held for a whole month."""
    while rows := store.rows(query, after, PAGE):
        for row in rows:
            yield int(row["number"]), json.loads(row["entry"])
        after = int(rows[-1]["number"])


def from_records(records: Iterable[Mapping[str, Any]]) -> History:
    """From whole pulse records alone, oldest first, since records keep what the gates were asked.

    Raises Damaged when one is missing in between.
    """
    entries: list[Entry] = []
    ladder: list[tuple[int, Taken]] = []
    ends: dict[str, End] = {}
    last: int | None = None
    for record in records:
        log = record.get("gate_log")
        if log is None:
            continue  # interrupted, or written before records kept this
        if last is not None and log["after"] != last:
            raise Damaged(f"questions {last + 1} to {log['after']} are missing before {record['id']}")
        last = log["after"] + len(log["entries"])
        entries += map(Entry.from_json, log["entries"])
        ladder += _ladder_of(record)
        ends.update(_ends_of(record))
    return History(entries=entries, ends=ends, ladder=ladder)


def _ladder_of(record: Mapping[str, Any]) -> Iterator[tuple[int, Taken]]:
    log = record["critique"]["ladder_log"]
    for number, each in enumerate(log["entries"], start=log["after"] + 1):
        yield number, Taken.from_json(each)


def _ends_of(record: Mapping[str, Any]) -> Iterator[tuple[str, End]]:
    for each in record["critique"]["ended"]:
        if not str(each["tes_note"]).startswith("waits for its probe"):
            yield (
                each["task_id"],
                end_of(each["state"], scored=True, worked=each["worked"], tes=each["tes"], stability=each["stability"]),
            )
    for look in record["critique"]["verifications"]:
        if look["verdict"] == "regressed":
            yield look["task_id"], "badly"
