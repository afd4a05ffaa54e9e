"""The consent file: what it allows, what makes it allow nothing, and what log rotation makes of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from governor_journal import Undoable

from chassis import consent
from chassis.atomic import write_json
from chassis.clock import VirtualClock
from chassis.consent import SCHEMA, AllowedPath, ConsentFile, confirmed, with_path, without_path
from chassis.errors import Damaged, Refused
from chassis.exchange.manifest import Manifest, TaskId
from chassis.layout import Layout
from services.governor.holders import KernelHolders
from services.governor.log_rotation import LogRotation

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


class Yard:
    """A station with a log of its own, and an application beside it with another."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root / "station")
        self.app = root / "app"
        for folder in (self.layout.logs, self.app):
            folder.mkdir(parents=True)
            (folder / "app.log").write_text("a line\n" * 1000)
        self.file = ConsentFile(self.layout)
        self.clock = VirtualClock()
        self.work = LogRotation(
            default_folder=self.layout.logs,
            roots=lambda: [self.layout.logs],
            allowed=self.file.here,
            holders=KernelHolders(),
            clock=self.clock,
            cpu_seconds=lambda: 0.0,
        )

    def consent(self, **facts: object) -> AllowedPath:
        given = AllowedPath(domain="log_rotation", path=self.app, by="operator", at=AT)
        return replace(given, **facts)  # type: ignore[arg-type]  # the test's own facts

    def allow(self, *paths: AllowedPath) -> None:
        consent.update(self.layout, lambda _: paths)

    def perform(self, number: int, *, approval: str = "", **params: str) -> list[str]:
        """Perform one task; the names that are in the application's folder afterwards."""
        task = Manifest(
            station_id="st-1", task_id=TaskId(f"t-{number}"), owner="governor", issuer="cbo", domain="log_rotation",
            procedure="gzip-6", created_at=AT + timedelta(minutes=number), expires_at=AT + timedelta(hours=1),
            ttl_seconds=600, params={"min_bytes": "1", **params}, level="EXECUTE", approval=approval,
        )  # fmt: skip
        scratch = self.layout.work("governor") / f"t-{number}"
        scratch.mkdir(parents=True)
        journal = Undoable(self.layout.journal, self.clock, [self.layout.logs, *self.file.folders()])
        with journal.effects(task.task_id) as effects:
            self.work.perform(task, scratch, effects)
        return sorted(path.name for path in self.app.iterdir())


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path.resolve())


def test_a_change_of_the_file_is_seen_without_a_restart(yard: Yard) -> None:
    assert yard.file.folders() == []
    yard.allow(yard.consent())
    assert yard.file.folders() == [yard.app]
    yard.allow()
    assert yard.file.folders() == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": "calyx.paths/1", "paths": [{"path": "/var/log"}]}'])
def test_a_damaged_file_allows_nothing(yard: Yard, text: str) -> None:
    yard.allow(yard.consent())
    yard.layout.consents.write_text(text)
    assert yard.file.all() == ()
    assert "no folder outside the station is allowed" in yard.file.fault
    with pytest.raises(Damaged):
        yard.allow(yard.consent())


@pytest.mark.parametrize("path", ["/", "/etc/app", "/home/me/.ssh", "/var", "relative", "/srv/../etc"])
def test_a_file_that_names_a_forbidden_folder_allows_nothing_at_all(yard: Yard, path: str) -> None:
    raw = yard.consent().to_json()
    yard.layout.consents.parent.mkdir()
    write_json(yard.layout.consents, {"schema": SCHEMA, "paths": [raw, {**raw, "path": path}]})
    assert yard.file.all() == ()


def test_a_folder_that_became_a_link_is_no_longer_what_was_allowed(yard: Yard, tmp_path: Path) -> None:
    yard.allow(yard.consent())
    yard.app.rename(tmp_path / "moved")
    yard.app.symlink_to(tmp_path / "moved")
    assert (yard.file.folders(), len(yard.file.all())) == ([], 1)


def test_consent_is_given_once_and_only_the_one_that_was_used_is_confirmed(yard: Yard) -> None:
    first, later = yard.consent(), yard.consent(at=AT + timedelta(days=1))
    assert with_path([first], later) == (first,)
    assert without_path([first], "cleanup", yard.app) == (first,)
    assert without_path([first], "log_rotation", yard.app) == ()
    assert confirmed([later], [first], AT) == (later,), "taken back and given again: another consent"
    assert confirmed([first], [first], AT)[0].confirmed_at == AT


def test_what_is_covered_lies_below_the_folder() -> None:
    app = AllowedPath(domain="log_rotation", path=Path("/srv/app"), by="operator", at=AT)
    assert app.covers("/srv/app/a.log")
    assert not any(map(app.covers, ("/srv/app", "/srv/app2/a.log", "/srv/app/../b.log")))


def test_unconfirmed_folders_are_left_alone_without_an_approval(yard: Yard) -> None:
    yard.allow(yard.consent())
    assert yard.perform(1) == ["app.log"]
    with pytest.raises(Refused, match="needs an approval"):
        yard.perform(2, folders=str(yard.app))
    assert len(yard.perform(3, approval="operator")) == 2


def test_confirmed_folders_are_rotated_like_the_stations_own(yard: Yard) -> None:
    yard.allow(yard.consent(confirmed_at=AT))
    assert len(yard.perform(1)) == 2
    yard.allow(yard.consent(confirmed_at=AT, domain="cleanup"))
    with pytest.raises(Refused, match="no consent"):
        yard.perform(2, folders=str(yard.app))
