"""What the planner learns, by its own code in seeded worlds, and what a station does with it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import scipy.stats
from cbo_station import Station

from bench import worlds
from bench.learning import arms, calibrated, life, skill_interval, swapped, told, way_back
from chassis.canonical import canonical_json
from chassis.domains import DomainManifest, Level, load_domains
from chassis.errors import InvalidInput
from chassis.layout import DEPLOY
from chassis.rng import Rng
from cli.kpis import confidence, in_words
from services.cbo.bridge import Options
from services.cbo.load import BUSY_PERCENT, Load, load_class
from services.cbo.planner import Candidate, again, choose
from services.cbo.ports import Capacity, Reading, Summary
from services.cbo.posterior import (
    NO_CALIBRATION,
    RUN_DISCOUNT,
    Bin,
    Key,
    Posterior,
    binned,
    calibration,
    joined,
    learned,
    pooled,
)
from services.cbo.uplift import ENOUGH, Arm, Uplift, heard, uplift, worth
from services.cbo.wire import confidence_to_wire

NOW = datetime(2026, 1, 2, tzinfo=UTC)
NewStation = Callable[..., Station]


def candidate(name: str, successes: float, failures: float, **more: float) -> Candidate:
    return Candidate(procedure=name, posterior=Posterior(at=NOW, successes=successes, failures=failures, **more))


# forgetting, contexts, costs


def test_each_run_of_a_domain_discounts_all_its_procedures_but_no_other_domain_and_no_other_load() -> None:
    there = (("d", "a", ""), ("d", "b", ""), ("d", "b", "busy"), ("e", "a", ""))
    known: dict[Key, Posterior] = {key: Posterior(at=NOW, successes=10.0) for key in there}
    changed = learned(known, "d", "a", "calm", True, NOW)
    assert changed["d", "a", ""].successes == pytest.approx(10 * RUN_DISCOUNT + 1)
    assert changed["d", "b", ""].successes == pytest.approx(10 * RUN_DISCOUNT)
    assert changed["d", "a", "calm"].successes == 1.0
    assert set(changed) == {("d", "a", ""), ("d", "b", ""), ("d", "a", "calm"), ("d", "", "")}


def test_what_people_read_as_a_domains_confidence_forgets_by_time_alone() -> None:
    known: dict[Key, Posterior] = {}
    for _ in range(200):
        known |= learned(known, "d", "a", "calm", True, NOW)
    assert known["d", "", ""].successes == 200 and known["d", "a", ""].successes < 1 / (1 - RUN_DISCOUNT)


def test_the_narrower_evidence_decides_where_there_is_enough_of_it() -> None:
    assert pooled((1.0, 1.0), 0.0, 0.0) == (1.0, 1.0)
    a, b = pooled((90.0, 10.0), 0.0, 10.0)
    assert (a, b) == pytest.approx((9.0, 11.0))
    assert joined((9.0, 1.0), (9.0, 1.0), (3.0, 7.0)) == pytest.approx((3.0, 7.0)), "no shift, so the other alone"


@pytest.mark.parametrize("percent", [None, 0.0, BUSY_PERCENT, 100.0])
def test_the_load_is_a_class_or_unknown(percent: float | None) -> None:
    assert load_class(percent) == ("" if percent is None else "busy" if percent >= BUSY_PERCENT else "calm")


def test_a_load_that_was_not_read_lately_is_unknown() -> None:
    load, minute = Load(), timedelta(minutes=1)
    assert load.of(NOW) == ""
    reading = Reading(value=95.0, state="ok", unit="percent", age_seconds=1.0, coverage=1.0)
    load.take(Capacity(readings={"cpu_percent": reading}), NOW, minute)
    assert load.of(NOW + 2 * minute) == "busy" and load.of(NOW + 3 * minute) == ""
    load.take(Capacity(readings={"cpu_percent": replace(reading, state="stale")}), NOW, minute)
    assert load.of(NOW) == ""


def test_costs_count_by_the_byte_where_a_run_says_how_much_it_had_to_do() -> None:
    small = Posterior(at=NOW).costing(1.0, 100.0, 1000.0)
    large = Posterior(at=NOW).costing(50.0, 5000.0, 100_000.0)
    assert small.cpu == 0.001 and large.cpu == 0.0005 and small.size == 0.1
    assert Posterior(at=NOW, cpu_seconds=7.0).costing(1.0, 100.0, 1000.0).cpu == 0.001, (
        "older means are of other things"
    )
    assert Posterior(at=NOW).costing(2.0, None).cpu == 2.0


# exploring


def known_pair() -> list[Candidate]:
    return [candidate("known", 30, 2, cpu_seconds=1.0), candidate("new", 0, 0)]


def test_with_explore_off_the_best_known_procedure_is_always_taken_and_nothing_is_drawn() -> None:
    assert {choose(known_pair(), Rng(n)).procedure for n in range(300)} == {"known", "new"}
    rng = Rng(1)
    made = [choose(known_pair(), rng, explore=False) for _ in range(300)]
    assert {each.procedure for each in made} == {"known"} and not any(each.exploratory for each in made)
    assert rng.bits() == Rng(1).bits(), "not one number was drawn"


def test_an_exploratory_draw_of_an_undrilled_procedure_only_rehearses() -> None:
    made = [choose(known_pair(), Rng(n), undrilled=["new", "known"]) for n in range(300)]
    assert {each.rehearse for each in made if each.procedure == "new"} == {True}
    assert {each.rehearse for each in made if each.procedure == "known"} == {False}, (
        "the best known one explores nothing"
    )
    assert not any(choose(known_pair(), Rng(n)).rehearse for n in range(300))
    assert not choose([candidate("only", 0, 0)], Rng(1), undrilled=["only"]).rehearse


def test_a_choice_is_made_again_from_what_it_was_told() -> None:
    for n in range(50):
        made = choose(known_pair(), Rng(n), undrilled=["new"], context="busy", memory="used")
        assert again(made.candidates, made.how, Rng(n)) == made
        assert canonical_json(made.how)


def test_a_manifest_switches_exploring_off_in_words_or_as_yaml_reads_them() -> None:
    raw = {
        "domain": "d", "title": "t", "serial": 1, "owner": "governor", "prober": "guardian", "effects": "reversible",
        "procedures": ["a"], "probes": ["absent"],
    }  # fmt: skip
    assert DomainManifest.from_mapping(raw).explore
    assert not DomainManifest.from_mapping({**raw, "explore": False}).explore
    assert not DomainManifest.from_mapping({**raw, "explore": "off"}).explore
    with pytest.raises(InvalidInput, match="explore"):
        DomainManifest.from_mapping({**raw, "explore": "sometimes"})


def at_execute(station: Station) -> None:
    station.cbo.desk.set_level("diagnostics", Level.EXECUTE, "for the test", station.cbo.pulse_number(), "operator")


def test_on_a_station_exploring_with_an_undrilled_procedure_sends_a_rehearsal(new_station: NewStation) -> None:
    station = new_station()
    object.__setattr__(station.cbo.bridge, "drilled", lambda _owner, _domain, procedure: procedure == "quick")
    for _ in range(40):
        station.cbo.bridge.beliefs.learn("diagnostics", "quick", True, station.clock.now())
    at_execute(station)
    sent = [task for _ in range(150) for task in station.pulse()["plan"]["tasks"] if task["domain"] == "diagnostics"]
    explored = [task for task in sent if task["procedure"] == "full"]
    assert explored and {task["level"] for task in explored} == {"GUIDE"}
    assert "EXECUTE" in {task["level"] for task in sent if task["procedure"] == "quick"}
    assert all("only rehearsed" in next(each["why"] for each in task["draws"] if "why" in each) for task in explored)


def test_on_a_station_with_exploring_off_no_draw_explores(new_station: NewStation) -> None:
    station = new_station()
    object.__setattr__(station.cbo.bridge, "options", Options(explore=False, durable=False))
    station.cbo.bridge.beliefs.learn("diagnostics", "full", True, station.clock.now())
    taken = [task["procedure"] for _ in range(30) for task in station.pulse()["plan"]["tasks"]]
    assert taken and set(taken) == {"full"}


# memory left out


def test_one_decision_in_twenty_ignores_memory_and_the_same_one_always_does() -> None:
    told_so = [Summary(domain="d", procedure="p", successes=3, failures=0)]
    sides = [heard(("station", f"t-{n}"), told_so, "d", 2) for n in range(4000)]
    assert sides == [heard(("station", f"t-{n}"), told_so, "d", 2) for n in range(4000)]
    assert 0.04 < sides.count("ignored") / 4000 < 0.06
    assert heard(("s", "t"), told_so, "d", 1) == heard(("s", "t"), told_so, "other", 2) == "none"


def test_every_draw_says_what_its_decision_heard_and_the_ends_are_counted_by_it(station: Station) -> None:
    station.memory.summaries = (Summary(domain="diagnostics", procedure="full", successes=9, failures=0),)
    at_execute(station)
    planned = [task for _ in range(60) for task in station.pulse()["plan"]["tasks"]]
    told_so = {task["task_id"]: {each["memory"] for each in task["draws"]} for task in planned}
    assert all(len(sides) == 1 for sides in told_so.values()) and {"used"} in told_so.values()
    for task in planned:
        recalled = sum(each["recalled_successes"] for each in task["draws"])
        assert recalled == (0 if {"ignored"} == told_so[task["task_id"]] else 9)
    found = station.pulse()["critique"]["uplift"]
    assert found["used"] > 0 and found["value"] is None and str(ENOUGH) in found["note"]
    assert {each["context"] for task in planned for each in task["draws"]} == {"calm"}


def test_the_uplift_is_unknown_until_enough_decisions_ended_without_memory() -> None:
    many, few = Arm(runs=1000, total=900.0, squares=870.0), Arm(runs=ENOUGH - 1, total=20.0, squares=15.0)
    assert uplift(many, few).value is None
    found = uplift(many, Arm(runs=100, total=60.0, squares=50.0))
    assert found.value == pytest.approx(0.3)
    assert found.low is not None and found.high is not None and 0 < found.low < 0.3 < found.high
    alike = uplift(Arm(runs=40, total=40.0, squares=40.0), Arm(runs=40, total=40.0, squares=40.0))
    assert alike.low is not None and alike.high is not None and alike.low < 0 < alike.high, "forty of forty is no proof"


def test_what_a_choice_was_worth_counts_the_costs_expected_when_it_was_made() -> None:
    choice = choose([candidate("a", 5, 0, cpu_seconds=2.0, bytes_written=10.0)], Rng(1))
    assert worth(choice.draws, "a", True) == pytest.approx(0.8) and worth(choice.draws, "a", False) == pytest.approx(
        -0.2
    )
    assert worth(choice.draws, "b", True) is None


# the worlds (bench/learning.py has the sizes that the issue asks for)


def test_it_learns_and_finds_back_after_a_silent_swap() -> None:
    found = sorted((swapped(seed) for seed in range(15)), key=lambda each: each.regret)
    assert found[7].regret <= 1 / 3
    assert sorted(each.back or 999 for each in found)[7] <= 60


def test_the_way_back_is_over_with_eight_of_ten() -> None:
    assert way_back([False] * 5 + [True] * 10) == 13
    assert way_back([True, False] * 20) is None


def test_predictions_in_the_five_worlds_are_calibrated_and_better_than_the_base_rate() -> None:
    lives = [(world, life(world, 0)) for world in worlds.FIVE]
    pairs = told(lived for _, lived in lives)
    found = calibrated(pairs)
    assert len(pairs) >= 2000 and found.ece is not None and found.ece <= 0.05
    assert skill_interval(pairs, 1, 400)[0] > 0
    assert arms(lives).used > 0


def test_memory_pays_where_the_kind_of_work_decides() -> None:
    gains = []
    for seed in range(3):
        with_it, without = life(worlds.FORMATS, seed), life(worlds.FORMATS, seed, always_ignore=True)
        gains.append(sum(a.utility - b.utility for a, b in zip(with_it, without, strict=True)) / len(with_it))
    assert min(gains) > 0


def test_the_worlds_are_the_same_for_everybody() -> None:
    assert list(worlds.live(worlds.HARD, 3, 60)) == list(worlds.live(worlds.HARD, 3, 60))
    assert len({world.name for world in worlds.FIVE}) == 5 and all(world.about for world in worlds.FIVE)


def test_each_shipped_kind_of_work_may_explore() -> None:
    assert all(each.explore for each in load_domains(DEPLOY / "domains").values())


# what people see of it


def test_bins_have_equal_mass_and_the_record_holds_what_the_plot_needs(station: Station) -> None:
    at_execute(station)
    found = [station.pulse()["critique"]["calibration"] for _ in range(25)][-1]
    sizes = [each["count"] for each in found["bins"]]
    assert sum(sizes) == found["predictions"] > 10 and max(sizes) - min(sizes) <= 1 and len(sizes) == 10
    assert found["brier"] is not None and found["base_rate"] == 1.0 and found["skill"] is None


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 57, 1440])
def test_predictions_are_binned_in_order_by_equal_mass_as_numpy_splits_them(count: int) -> None:
    chance = Rng.of("bins", str(count))
    ended = sorted((chance.uniform(), int(chance.uniform() < 0.7)) for _ in range(count))
    parts = [part for part in np.array_split(np.array(ended).reshape(-1, 2), 10) if len(part)]
    assert [
        (made.count, made.succeeded, pytest.approx(made.predicted), pytest.approx(made.squared_error))
        for made in binned(ended)
    ] == [(len(p), p[:, 1].sum(), p[:, 0].sum(), ((p[:, 0] - p[:, 1]) ** 2).sum()) for p in parts]


def test_the_kpi_command_says_how_good_the_predictions_were() -> None:
    known = calibration([Bin(count=400, predicted=360.0, succeeded=200, squared_error=40.0)])
    gain = Uplift(used=60, ignored=40, value=0.05, low=0.01, high=0.09, note="n")
    shown = confidence(confidence_to_wire(known, gain))
    said = in_words(shown)
    assert "Brier 0.1000, +60.0% better" in said[0] and "calibration error 0.4000 over 400" in said[0]
    assert said[1].index("·") < said[1].index("o") < said[1].index("|"), "the interval, what came, what was said"
    assert "said 90.0%, came 50.0% of 400" in said[1]
    assert "+0.050" in said[2] and "between +0.010 and +0.090" in said[2]
    nothing = Uplift(used=0, ignored=3, value=None, low=None, high=None, note="3 of 30")
    assert "unknown; 3 of 30" in in_words(confidence(confidence_to_wire(known, nothing)))[-1]
    empty = confidence(confidence_to_wire(NO_CALIBRATION, nothing))
    assert "no prediction" in in_words(empty)[0] and empty["brier"] is None and empty["bins"] == []


def test_the_interval_of_a_share_is_wilsons() -> None:
    made = scipy.stats.binomtest(20, 40).proportion_ci(method="wilson")
    assert Bin(count=40, predicted=0.0, succeeded=20, squared_error=0.0).interval() == pytest.approx(
        (made.low, made.high)
    )
    low, high = Bin(count=3, predicted=0.0, succeeded=3, squared_error=0.0).interval()
    assert low < 0.5 and high == 1.0, "three of three prove little"
