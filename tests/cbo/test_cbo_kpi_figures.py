"""What GetKpis says of confidence and memory: unknown until there is enough, and never an old figure as today's."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from calyx.cbo.v1 import cbo_pb2
from calyx.cbo.v1.cbo_pb2_grpc import CboServiceStub
from cbo_station import Station

from chassis.clock import iso
from chassis.domains import Level
from chassis.executor import InlineExecutor
from chassis.rpc.local import LocalChannel
from cli.kpis import confidence, in_words
from services.cbo import servicer
from services.cbo.posterior import ENOUGH_PREDICTIONS
from services.cbo.uplift import ENOUGH, RECENT_RUNS, Arm, uplift

NewStation = Callable[..., Station]
DAY = timedelta(days=1)


def asked(station: Station) -> cbo_pb2.GetKpisResponse:
    served = servicer.CboServicer(station.cbo, InlineExecutor())
    stub = CboServiceStub(LocalChannel({servicer.FULL_NAME: served}, "operator"))
    return stub.GetKpis(cbo_pb2.GetKpisRequest())


def working(station: Station) -> Station:
    desk, pulse = station.cbo.desk, station.cbo.pulse_number()
    desk.set_level("diagnostics", Level.EXECUTE, "for the test", pulse, "operator")
    return station


def delta(station: Station) -> cbo_pb2.Kpi:
    return next(each for each in asked(station).kpis if each.name == "confidence_delta")


def test_how_good_predictions_were_is_unknown_until_there_are_a_hundred(station: Station) -> None:
    """One run that went well is no bin of 100 %."""
    working(station).pulse(5)
    few = asked(station).confidence
    assert 0 < few.predictions < 10 and not few.bins
    assert not any(few.HasField(name) for name in ("brier", "calibration_error", "skill"))
    said = in_words(confidence(few))[0]
    assert said == f"confidence: unknown; {few.predictions} of 100 predictions have been scored in 24 h"

    station.pulse(ENOUGH_PREDICTIONS - 1 - few.predictions)
    assert asked(station).confidence.predictions == ENOUGH_PREDICTIONS - 1
    assert not asked(station).confidence.bins, "one is still missing"
    station.pulse()
    many = asked(station).confidence
    assert many.HasField("brier") and many.HasField("calibration_error") and many.note == ""
    assert not many.HasField("skill"), "all went well, so that always saying so would have been perfect"
    assert [each.count for each in many.bins] == [10] * 10
    assert {(round(each.low, 4), each.came, round(each.high, 4)) for each in many.bins} == {(0.7225, 1.0, 1.0)}, (
        "Wilson's interval for ten of ten"
    )


def test_predictions_older_than_a_day_are_not_counted(station: Station) -> None:
    working(station).pulse(5)
    before = asked(station).confidence.predictions
    station.clock.advance(2 * DAY.total_seconds())
    assert before > 0 and asked(station).confidence.predictions == 0


def test_an_effect_that_did_not_last_counts_against_its_prediction(station: Station) -> None:
    working(station).pulse(4)
    before = station.cbo.measured().calibration()
    assert before.base_rate == 1.0 and before.predictions > 0
    for prober in station.probers.values():
        prober.verdict = "refuted"
    looks = station.pulse()["critique"]["verifications"]
    assert [each["verdict"] for each in looks] == ["regressed"], "what had been confirmed was gone a minute later"
    after = station.cbo.measured().calibration()
    assert after.predictions == before.predictions + 1, "one more ended, and was refuted at once"
    assert sum(each.succeeded for each in after.bins) == before.predictions - 1, "and of the others one did not last"


def test_what_was_believed_long_ago_has_faded_by_yesterday(station: Station) -> None:
    """Twenty runs, a week of rest, some runs more: what a week took away was not lost in a day."""
    beliefs = station.cbo.bridge.beliefs
    for _ in range(20):
        station.clock.advance(60)
        beliefs.learn("diagnostics", "quick", True, station.clock.now())
    sure = beliefs.of("diagnostics", "", station.clock.now()).mean
    station.clock.advance(timedelta(days=7).total_seconds())
    working(station).pulse(5)
    assert beliefs.of("diagnostics", "", station.clock.now()).mean < sure - 0.01, "a week took more than today gave"
    assert delta(station).value.value > 0.0, "since yesterday it rose"


def test_points_from_before_the_evidence_was_kept_are_taken_as_they_are(station: Station) -> None:
    store, now = station.cbo.bridge.store, station.clock.now()
    working(station).pulse(2)
    store.run("confidence_insert", "diagnostics", (now - 2 * DAY).isoformat(), 0.5, None, None)
    mean = station.cbo.bridge.beliefs.of("diagnostics", "", station.clock.now()).mean
    assert delta(station).value.value == pytest.approx(100 * (mean - 0.5))


def test_the_uplift_names_the_side_that_is_short_and_since_when_it_counts() -> None:
    many, few = Arm(runs=500, total=450.0, squares=440.0), Arm(runs=ENOUGH - 1, total=20.0, squares=15.0)
    assert uplift(many, few).note.startswith(f"{ENOUGH - 1} of {ENOUGH} decisions without memory")
    assert uplift(few, many).note.startswith(f"{ENOUGH - 1} of {ENOUGH} decisions with memory")
    assert "since the station began" in uplift(many, many).note, "the other figures are of 24 h"


def test_the_uplift_is_unknown_on_the_wire_until_both_sides_are_long_enough(station: Station) -> None:
    store = station.cbo.bridge.store
    for side, runs in (("used", 100), ("ignored", ENOUGH - 1)):
        for number in range(runs):
            gained = 0.95 if number % (20 if side == "used" else 3) else -0.05
            store.run("memory_trial", "diagnostics", side, gained, gained * gained)
    short = asked(station).confidence
    assert not any(short.HasField(name) for name in ("uplift", "uplift_low", "uplift_high"))
    store.run("memory_trial", "diagnostics", "ignored", -0.05, 0.0025)
    found = asked(station).confidence
    assert 0.0 < found.uplift_low < found.uplift < found.uplift_high
    shown = in_words(confidence(found))[-1]
    assert "uplift of memory: +0.3" in shown and "100 decisions with memory, 30 without" in shown


def test_points_of_confidence_go_when_no_comparison_needs_them_any_more(station: Station) -> None:
    store, beliefs, start = station.cbo.bridge.store, station.cbo.bridge.beliefs, station.clock.now()

    def kept(domain: str) -> int:
        return int(store.value(f"SELECT count(*) FROM confidence_point WHERE domain = '{domain}'"))

    def learn(domain: str, hours: float) -> None:
        beliefs.learn(domain, "p", True, start + timedelta(hours=hours))

    for each in range(3 * RECENT_RUNS):
        learn("busy", each / 10)
    assert kept("busy") == 3 * RECENT_RUNS, "all of them are of one day"
    learn("busy", 48.0)
    assert kept("busy") == RECENT_RUNS
    learn("busy", 60.0)
    assert kept("busy") == RECENT_RUNS
    assert beliefs.recent("busy") == start + timedelta(hours=16.2)
    for each in range(RECENT_RUNS):
        learn("busy", 96.0 + each / 100)
    assert kept("busy") == RECENT_RUNS + 1, "the newest that is a day old is compared with"
    (last,) = store.rows("confidence_at", "busy", iso(start + timedelta(hours=90)))
    assert last["at"] == iso(start + timedelta(hours=60))
    learn("rare", 0.0)
    learn("rare", 1000.0)
    assert kept("rare") == 2
