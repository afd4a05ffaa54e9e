"""What a record tells is decided again from it alone; a byte that is not what was written has a name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cbo_station import Station

from chassis.canonical import canonical_json
from chassis.domains import Level
from chassis.errors import NotFound, Refused
from chassis.rng import Rng
from services.cbo import replay, seal
from services.cbo.objectives import ONCE
from services.cbo.ports import Intent, Recalled
from services.cbo.replay import Verdict
from services.cbo.replay_desk import ReplayDesk

NewStation = Callable[..., Station]


def verdicts(station: Station, pulse: str = "", last: int = 0) -> list[Verdict]:
    desk = ReplayDesk(station.cbo)
    return list(desk.verdicts(desk.ids(pulse, last)))


def path_of(station: Station, pulse: str, suffix: str = ".json") -> Path:
    found: Path = next(station.layout.pulses.glob(f"*/{pulse}{suffix}"))
    return found


def rewrite(station: Station, pulse: str, change: Callable[[dict[str, Any]], None], *, resealed: bool) -> None:
    """Somebody changes a record, and perhaps knows how to seal it again."""
    path = path_of(station, pulse)
    whole = json.loads(path.read_bytes())
    change(whole)
    if resealed:
        whole.pop("seal")
    path.write_bytes((seal.sealed(whole) if resealed else canonical_json(whole)) + b"\n")


def live(station: Station, pulses: int, seed: str) -> None:
    """Good and bad work, silent services and probers, people, intents, kills in mid-pulse."""
    chance = Rng.of("replay", seed)
    alike = Recalled(
        id="x-1", cosine=0.9, domain="diagnostics", procedure="quick", outcome="success", tes=97.0, rehearsal=False
    )  # fmt: skip
    for number in range(pulses):
        drawn = chance.uniform()
        station.answer.seconds = 3.0 if drawn < 0.9 else 700.0
        station.answer.claims = drawn > 0.05
        station.memory.matches = (alike,) if drawn > 0.5 else ()
        station.memory.down, station.governor.down = 0.60 < drawn < 0.65, 0.65 < drawn < 0.70
        station.guardian.down, station.analytics.down = 0.70 < drawn < 0.75, 0.75 < drawn < 0.80
        station.governor.admits = not 0.80 < drawn < 0.85
        station.probers["governor"].verdict = "refuted" if 0.3 < drawn < 0.4 else "confirmed"
        station.probers["governor"].down = 0.2 < drawn < 0.3
        if number % 9 == 4:
            station.governor.intents = (
                Intent(id=f"i-{number}", kind="cleanup", domain="cleanup", reason="RAM is at 91 %"),
            )
        if number % 7 == 3:
            station.cbo.desk.submit("check the health of the station", "", {}, ONCE, f"k{number}", "test")
        if number % 15 == 8:
            station.crash_at(("settled", "committed", "planned", "dispatched", "probed")[number // 15 % 5])
        if 0.5 < drawn < 0.55:
            try:
                level = Level.EXECUTE if drawn < 0.53 else Level.SUGGEST if drawn < 0.54 else Level.GUIDE
                station.cbo.desk.set_level("diagnostics", level, "I say so", station.cbo.pulse_number(), "operator")
            except Refused:
                assert drawn < 0.53, "only a rise is refused"
        station.pulse()


@pytest.mark.parametrize("seed", ["one", "two"])
def test_pulses_with_every_fault_are_decided_again_byte_for_byte(new_station: NewStation, seed: str) -> None:
    station = new_station(every_pulse_only=False)
    live(station, 45, seed)
    found = verdicts(station)
    assert [each for each in found if each.status != "identical"] == []
    assert len(found) >= 45 and all(not each.skipped or "did not come to" in each.reason for each in found)
    records = [json.loads(path_of(station, each.pulse).read_bytes()) for each in found]
    assert any(record["status"] == "interrupted" for record in records)
    ended = [each for record in records for each in record["critique"]["ended"]]
    assert {each["probe"] and each["probe"]["verdict"] for each in ended} >= {"confirmed", "refuted", "inconclusive"}
    assert any(isinstance(each["heard"], str) for each in ended), "a prober that did not answer"
    assert any(each["level_changes"] for each in (r["critique"] for r in records) if "level_changes" in each)
    assert any(each["answers"][1][1] != "pass" or each["verdict"] == "hold" for r in records
               for each in r.get("gate_log", {"entries": []})["entries"])  # fmt: skip


def test_each_flipped_byte_is_found_in_its_part(station: Station) -> None:
    live(station, 12, "flips")
    chance = Rng.of("flips")
    pulses = [each.pulse for each in verdicts(station)]
    for _ in range(100):
        pulse = pulses[int(chance.uniform() * len(pulses))]
        path = path_of(station, pulse)
        good = path.read_bytes()
        at, bit = int(chance.uniform() * len(good)), 1 << int(chance.uniform() * 8)
        path.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
        found = verdicts(station, pulse)[0]
        assert found.status == "damaged", f"byte {at} of {pulse}"
        assert named_right(good, at, found), f"byte {at} of {pulse}: {found.findings}"
        path.write_bytes(good)
    assert all(each.status == "identical" for each in verdicts(station))


def named_right(good: bytes, at: int, found: Verdict) -> bool:
    """By the seal's own table of parts, counted here."""
    begin = good.index(b'"seal":{')
    parts = json.loads(good)["seal"]["parts"]
    end = begin + len(canonical_json({"seal": json.loads(good)["seal"]})) - 1
    paths = {each.path for each in found.findings}
    if begin <= at < end:
        return any(path.startswith("seal") for path in paths)
    place = at if at < begin else at - (end - begin)
    for path, length, _ in parts:
        if place < length:
            return paths == {path}
        place -= length
    return paths == {"end of file"}


def test_a_flip_in_the_report_is_named_by_its_line(station: Station) -> None:
    station.pulse(3)
    path = path_of(station, "bp-000000002", ".md")
    lines = path.read_bytes().split(b"\n")
    lines[4] = lines[4].replace(b"o", b"0", 1) + b" "
    path.write_bytes(b"\n".join(lines))
    found = verdicts(station, "bp-000000002")[0]
    assert (found.status, [(each.section, each.path) for each in found.findings]) == ("damaged", [("report", "line 5")])


def test_a_decision_that_was_rewritten_and_sealed_again_is_found_twice(station: Station) -> None:
    station.pulse(4)

    def forge(whole: dict[str, Any]) -> None:
        whole["critique"]["ended"][0]["tes"] = 50.0

    rewrite(station, "bp-000000003", forge, resealed=True)
    found = {each.pulse: each for each in verdicts(station)}
    assert found["bp-000000003"].damaged and found["bp-000000004"].damaged
    assert found["bp-000000003"].findings[0].path == "critique.ended[0].tes"
    assert [each.path for each in found["bp-000000004"].findings] == ["previous.digest"]
    assert found["bp-000000002"].status == "identical"


FORGED: dict[str, Callable[[dict[str, Any]], None]] = {
    "rng": lambda r: r["rng"].update(seed=1),
    "plan.objectives": lambda r: r["plan"]["objectives"][0].update(reason="because"),
    "plan.steps": lambda r: r["plan"]["tasks"][0].update(prediction=0.99),
    "gate_log": lambda r: r["gate_log"]["entries"][0].update(verdict="hold"),
    "plan.tasks": lambda r: r["plan"]["tasks"][0].update(reason="I let it"),
    "act.dispatched": lambda r: r["act"]["dispatched"][0].update(level="EXECUTE"),
    "critique.ended": lambda r: r["critique"]["ended"][0].update(stability=0.6),
    "critique.tes": lambda r: r["critique"]["tes"]["diagnostics"].update(value=99.0),
    "critique.ladder_log": lambda r: r["critique"]["ladder_log"]["standings"]["diagnostics"].update(run=4),
    "critique.level_changes": lambda r: r["critique"]["level_changes"].append(
        {"domain": "cleanup", "before": "GUIDE", "after": "EXECUTE", "reason": "so"}
    ),
    "critique.ladder": lambda r: r["critique"]["ladder"][0].update(next="a gift"),
    "critique.kpis": lambda r: r["critique"]["kpis"][0].update(verdict="met"),
    "critique.calibration": lambda r: r["critique"]["calibration"].update(predictions=7),
}


@pytest.mark.parametrize("section", FORGED)
def test_what_was_decided_otherwise_than_the_inputs_say_is_named_by_its_section(station: Station, section: str) -> None:
    station.pulse(3)
    rewrite(station, "bp-000000003", FORGED[section], resealed=True)
    found = verdicts(station, "bp-000000003")[0]
    assert found.damaged
    assert section in {each.section for each in found.findings}


def test_the_same_difference_under_other_code_is_different_code_and_no_damage(station: Station) -> None:
    station.pulse(3)

    def other(whole: dict[str, Any]) -> None:
        whole["versions"]["sources"] = "another"
        whole["critique"]["ended"][0].update(tes=12.0)

    rewrite(station, "bp-000000003", other, resealed=True)
    found = verdicts(station, "bp-000000003")[0]
    assert (found.status, found.damaged) == ("different code", False)
    assert "critique.ended[0].tes" in found.reason


def test_a_flipped_byte_is_damage_under_other_code_too(station: Station) -> None:
    station.pulse(3)
    rewrite(station, "bp-000000003", lambda whole: whole["versions"].update(sources="another"), resealed=True)
    assert verdicts(station, "bp-000000003")[0].status == "identical"
    rewrite(station, "bp-000000003", lambda whole: whole["reflect"]["silent"].update(x="y"), resealed=False)
    found = verdicts(station, "bp-000000003")[0]
    assert (found.status, [each.path for each in found.findings]) == ("damaged", ["reflect.silent"])


def test_a_record_of_before_is_no_damage(station: Station) -> None:
    station.pulse(2)

    def old(whole: dict[str, Any]) -> None:
        whole["schema"] = "calyx.pulse/1"
        for name in ("seal", "previous"):
            whole.pop(name)

    rewrite(station, "bp-000000001", old, resealed=False)
    assert verdicts(station, "bp-000000001")[0].status == "recorded before replay"


def test_a_record_that_is_gone_and_one_under_anothers_name_are_damage(station: Station) -> None:
    station.pulse(4)
    path_of(station, "bp-000000003").write_bytes(path_of(station, "bp-000000002").read_bytes())
    path_of(station, "bp-000000001").unlink()
    found = {each.pulse: each for each in verdicts(station)}
    assert found["bp-000000001"].findings[0].reason == "the file is not there"
    assert found["bp-000000003"].findings[0].reason == "this is the record of bp-000000002"


def test_a_policy_that_is_not_the_one_that_counted_is_named(station: Station) -> None:
    station.pulse(2)
    kept = next((station.layout.pulses / "policies").glob("*.yaml"))
    text = kept.read_bytes()
    kept.write_bytes(text + b"#")
    found = verdicts(station, "bp-000000002")[0]
    assert found.damaged and "is not the one with this digest" in found.findings[0].reason
    kept.unlink()
    found = verdicts(station, "bp-000000002")[0]
    assert (found.status, set(found.skipped)) == ("identical", {"gate_log", "plan.tasks"})
    assert "not decided again" in found.reason


def test_one_pulse_the_last_ones_or_all_and_none_that_never_was(station: Station) -> None:
    station.pulse(5)
    assert [each.pulse for each in verdicts(station, last=2)] == ["bp-000000004", "bp-000000005"]
    assert len(verdicts(station)) == 5
    with pytest.raises(NotFound, match="there is no pulse bp-000000099"):
        verdicts(station, "bp-000000099")


def test_the_code_that_decides_has_one_name_in_every_record(station: Station) -> None:
    station.pulse(2)
    names = {json.loads(path.read_bytes())["versions"]["sources"] for path in station.layout.pulses.glob("*/bp-*.json")}
    assert names == {replay.code()}
