"""Brings a replay what it needs: the files of records and reports, the record before each, the policies they name."""

from collections.abc import Iterator, Sequence

from chassis.canonical import sha256_hex
from chassis.clock import parse_iso
from chassis.errors import Damaged, NotFound
from chassis.policy import RuleSet
from services.cbo import record, replay
from services.cbo.overseer import Overseer
from services.cbo.store import pulse_id


class ReplayDesk:
    """Reads only. Not thread-safe: make one for each request."""

    def __init__(self, overseer: Overseer) -> None:
        self._bridge = overseer.bridge
        self._folder = overseer.bridge.layout.pulses
        self._rules: dict[str, RuleSet | None] = {}
        self._last: tuple[str, bytes | None] = ("", None)

    def ids(self, pulse: str, last: int) -> Sequence[str]:
        """One pulse by its id, the last so many (0: all that are kept), oldest first. Raises NotFound."""
        if not pulse:
            return [row["id"] for row in reversed(self._bridge.store.rows("pulses", last or -1))]
        if not self._bridge.store.rows("pulse", pulse):
            raise NotFound(f"there is no pulse {pulse}; `calyx pulse list` shows those that are kept")
        return [pulse]

    def verdicts(self, pulses: Sequence[str]) -> Iterator[replay.Verdict]:
        return (self.verdict(each) for each in pulses)

    def verdict(self, pulse: str) -> replay.Verdict:
        raw, page = self._record(pulse), self._file(pulse, report=True)
        if raw is None:
            return replay.missing(pulse)
        before = self._record(pulse_id(int(pulse.removeprefix("bp-")) - 1))
        self._last = (pulse, raw)
        return replay.replay(pulse, raw, page, before, replay.code(), self._policy)

    def _record(self, pulse: str) -> bytes | None:
        return self._last[1] if self._last[0] == pulse else self._file(pulse)

    def _file(self, pulse: str, *, report: bool = False) -> bytes | None:
        rows = self._bridge.store.rows("pulse", pulse)
        if not rows:
            return None
        paths = record.paths(self._folder, pulse, parse_iso(rows[0]["started_at"]))
        try:
            return paths[report].read_bytes()
        except FileNotFoundError:
            return None

    def _policy(self, digest: str) -> RuleSet | None:
        if digest not in self._rules:
            self._rules[digest] = self._read(digest)
        return self._rules[digest]

    def _read(self, digest: str) -> RuleSet | None:
        path = record.rules_path(self._folder, digest)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        if sha256_hex(text) != digest:
            raise Damaged(f"the kept policy {path.name} is not the one with this digest")
        return self._bridge.policy_file.parse(text).policy
