"""Uptime slots of 60 s, aligned to wall minutes and cut on a monotonic clock.

A slot is `up` if in more than half of its probe rounds all six services answered and at least half of the
expected rounds took place; with fewer rounds it is `unknown`, else `down`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, cast, get_args

import structlog

from chassis.atomic import append_line, whole_lines
from chassis.clock import Clock, iso, parse_iso

log = structlog.get_logger(__name__)

SlotState = Literal["up", "down", "unknown", "maintenance"]
SLOT = timedelta(seconds=60)
KEPT = 48 * 60
"""Slots in memory, and the most missing ones that are filled in after a restart: two days."""
HEADER = b"start,state,rounds,expected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One slot; `rounds` of `expected` probe rounds took place."""

    start: datetime
    state: SlotState
    rounds: int
    expected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSlot:
    """How far a slot is that is not over yet."""

    start: datetime
    rounds: int
    up_rounds: int


def judge(*, rounds: int, up_rounds: int, expected: int, maintenance: bool) -> SlotState:
    """The rule of this module's first lines; planned downtime is `maintenance` unless the slot was up."""
    enough = rounds * 2 >= expected and rounds > 0
    if enough and up_rounds * 2 > rounds:
        return "up"
    if maintenance:
        return "maintenance"
    return "down" if enough else "unknown"


def minute(moment: datetime) -> datetime:
    """The wall minute that `moment` lies in."""
    return moment.replace(second=0, microsecond=0)


class Slots:
    """The open slot, the closed ones, and their file (start, state, rounds, expected; append-only).

    Not thread-safe; the guardian's lock is around it. Slots missing since the last run are filled in as unknown,
    or as maintenance; the minute that a killed run was in (`unfinished`) goes on. Starts only grow: a wall clock
    set back makes no second slot of a minute.
    """

    def __init__(
        self,
        file: Path,
        clock: Clock,
        every_seconds: float,
        in_maintenance: Callable[[datetime], bool],
        unfinished: OpenSlot | None = None,
    ) -> None:
        self._file, self._clock, self._in_maintenance = file, clock, in_maintenance
        self._expected = max(1, round(SLOT.total_seconds() / every_seconds))
        self._closed: list[Slot] = []
        self._unwritten: list[Slot] = []
        self._first: datetime | None = None
        file.parent.mkdir(parents=True, exist_ok=True)
        self._load()
        now = clock.now()
        self._start = minute(now)
        self._ends = clock.monotonic() + (self._start + SLOT - now).total_seconds()
        self._rounds = self._up_rounds = 0
        # On a new station nobody could have probed before now; after a restart what was missed is missing.
        left = max(1, round((self._ends - clock.monotonic()) / every_seconds))
        self._now_expected = self._expected if self._closed else left
        if unfinished is not None and unfinished.start == self._start:
            self._rounds, self._up_rounds = unfinished.rounds, unfinished.up_rounds
            self._now_expected = self._expected
        self._fill(self._start)
        if self._closed:
            self._start = max(self._start, self._closed[-1].start + SLOT)

    @property
    def since(self) -> datetime:
        """When slot keeping began on this station."""
        return self._first or self._start

    @property
    def open(self) -> OpenSlot:
        return OpenSlot(start=self._start, rounds=self._rounds, up_rounds=self._up_rounds)

    def round(self, *, everybody_up: bool) -> list[Slot]:
        """Count one probe round; the slots that it closed, if any."""
        closed = self.turn()
        self._rounds += 1
        self._up_rounds += everybody_up
        return closed

    def turn(self) -> list[Slot]:
        """Close what is over by now."""
        closed: list[Slot] = []
        while self._clock.monotonic() >= self._ends:
            state = judge(
                rounds=self._rounds,
                up_rounds=self._up_rounds,
                expected=self._now_expected,
                maintenance=self._in_maintenance(self._start),
            )
            closed.append(self._keep(self._start, state, self._rounds, self._now_expected))
            self._rounds = self._up_rounds = 0
            self._now_expected = self._expected
            # After a jump of the wall clock (a laptop that slept) the label follows it, forwards only.
            self._start = max(self._start + SLOT, minute(self._clock.now() - timedelta(seconds=self._late())))
            self._ends += SLOT.total_seconds()
        if closed:
            self._write()
        return closed

    def slots(self, since: datetime) -> list[Slot]:
        """Closed slots that start at or after `since`, oldest first; at most the last two days."""
        return [slot for slot in self._closed if slot.start >= since]

    def _late(self) -> float:
        return max(0.0, self._clock.monotonic() - self._ends)

    def _keep(self, start: datetime, state: SlotState, rounds: int, expected: int) -> Slot:
        slot = Slot(start=start, state=state, rounds=rounds, expected=expected)
        for kept in (self._closed, self._unwritten):
            kept.append(slot)
            del kept[:-KEPT]
        self._first = self._first or start
        return slot

    def _write(self) -> None:
        """What a full disk keeps back is written with the next slot: the guardian has to go on looking meanwhile."""
        try:
            if not self._file.exists():
                append_line(self._file, HEADER)
            while self._unwritten:
                slot = self._unwritten[0]
                append_line(self._file, f"{iso(slot.start)},{slot.state},{slot.rounds},{slot.expected}".encode())
                del self._unwritten[0]
        except OSError as error:
            log.error("uptime slots could not be written yet", slots=len(self._unwritten), why=str(error))

    def _fill(self, until: datetime) -> None:
        if not self._closed:
            return
        start = max(self._closed[-1].start + SLOT, until - KEPT * SLOT)
        while start < until:
            self._keep(start, "maintenance" if self._in_maintenance(start) else "unknown", 0, self._expected)
            start += SLOT
        self._write()

    def _load(self) -> None:
        for line in whole_lines(self._file):
            try:
                start, state, rounds, expected = line.decode().split(",")
                if state not in get_args(SlotState):
                    continue
                slot = Slot(
                    start=parse_iso(start),
                    state=cast("SlotState", state),
                    rounds=int(rounds),
                    expected=int(expected),
                )
            except ValueError:
                continue  # the header, or a line that somebody else wrote
            self._first = self._first or slot.start
            self._closed.append(slot)
            if len(self._closed) > 2 * KEPT:
                del self._closed[:-KEPT]
        del self._closed[:-KEPT]
