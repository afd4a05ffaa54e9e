"""TES, KPIs, gates, posteriors, planner and the random stream: pure rules against known values."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.domains import Level, Limits, load_domains
from chassis.errors import InvalidInput, Unavailable
from chassis.layout import DEPLOY
from chassis.rng import Rng
from services.cbo import kpis, objectives
from services.cbo.critique import outside_of
from services.cbo.gates import Question, Use, evaluate
from services.cbo.objectives import Objective, Schedule
from services.cbo.planner import RECALL_CAP, Candidate, choose
from services.cbo.policy import SHIPPED, Policy, Ruling
from services.cbo.posterior import HALF_LIFE, Bin, Posterior, calibration
from services.cbo.record import runs_in_words
from services.cbo.tasks import TRANSITIONS
from services.cbo.tes import End, combine, falling, pulse_tes, score, unreachable_because

NOW = datetime(2026, 1, 2, tzinfo=UTC)
DAY = timedelta(hours=24)
DOMAINS = load_domains(DEPLOY / "domains")


def done(seconds: float, files: int = 0, **facts: object) -> End:
    return replace(End(state="done", verdict="confirmed", duration_s=seconds, files=files), **facts)


@pytest.mark.parametrize(("seconds", "tes"), [(180.1, 96.7), (163.2, 97.3), (158.7, 97.5), (0, 100.0), (90, 100.0)])
def test_known_scores_of_a_stable_run(seconds: float, tes: float) -> None:
    assert score(done(seconds), Limits()).tes == tes


@pytest.mark.parametrize(("stability", "velocity", "tes"), [(0.0, 0.886, 46.6), (0.0, 0.933, 48.0), (0.6, 0.933, 78.0)])
def test_known_scores_by_their_parts(stability: float, velocity: float, tes: float) -> None:
    assert combine(stability, velocity, 1.0) == tes


@pytest.mark.parametrize(
    ("end", "stability"),
    [
        (End(state="done", verdict="confirmed"), 1.0),
        (End(state="rehearsed", verdict="confirmed"), 1.0),
        (End(state="done", verdict="refuted"), 0.0),
        (End(state="done", verdict="inconclusive"), None),
        (End(state="rehearsed", verdict=None), None),
        (End(state="failed"), 0.6),
        (End(state="failed", applied=True, reverted=True), 0.2),
        (End(state="failed", applied=True), 0.0),
        (End(state="expired"), 0.0),
        (End(state="dead"), 0.0),
    ],
)
def test_stability_by_how_it_ended(end: End, stability: float | None) -> None:
    made = score(end, Limits())
    assert made.stability == stability and (made.tes is None) == (stability is None)


@pytest.mark.parametrize("end", [End(state="done", no_work=True), End(state="cancelled"), End(state="done", undo=True)])
def test_no_work_cancelled_and_undo_are_not_scored(end: End) -> None:
    made = score(end, Limits())
    assert not made.worked and made.tes is None and not made.failed


def test_a_log_rotation_of_its_usual_size_can_pass_95() -> None:
    assert (score(done(60, files=50), DOMAINS["log_rotation"].limits).tes or 0) > 95
    assert (score(done(60, files=50), Limits()).tes or 100) <= 95


def test_the_limit_that_makes_promotion_unreachable_is_named() -> None:
    limits = Limits(small_files=1, large_files=10)
    assert "small_files" in unreachable_because(score(done(1, files=9), limits), limits)
    assert "fast_s" in unreachable_because(score(done(800), limits), limits)
    assert unreachable_because(score(done(1), limits), limits) == ""


@given(st.floats(0, 2000), st.integers(0, 30), st.sampled_from(["confirmed", "refuted"]))
def test_a_score_is_between_0_and_100_and_falls_with_time(seconds: float, files: int, verdict: str) -> None:
    made = score(done(seconds, files, verdict=verdict), Limits()).tes
    slower = score(done(seconds + 60, files, verdict=verdict), Limits()).tes
    assert made is not None and slower is not None and 0 <= slower <= made <= 100


def test_the_linear_part_has_its_ends() -> None:
    assert (falling(1, 1, 10), falling(10, 1, 10), falling(5.5, 1, 10), falling(2, 5, 5)) == (1.0, 0.0, 0.5, 1.0)


def test_a_pulses_score_is_the_mean_of_the_known_ones() -> None:
    made = [score(done(0), Limits()), score(End(state="failed"), Limits()), score(End(state="done"), Limits())]
    found = pulse_tes(made)
    assert (found.tes, found.known, found.unknown, found.failures) == (90.0, 2, 1, 1)
    assert pulse_tes([]).worked is False
    assert pulse_tes([made[2]]).worked and pulse_tes([made[2]]).tes is None


# KPIs


def slots(count: int, state: kpis.SlotState = "up", before: datetime = NOW) -> dict[datetime, kpis.SlotState]:
    return {before - kpis.SLOT * (n + 1): state for n in range(count)}


def test_a_full_day_up_meets_the_target() -> None:
    kpi = kpis.uptime(slots(1440), NOW - DAY * 3, NOW)
    assert (kpi.value, kpi.coverage, kpi.verdict) == (100.0, 1.0, "met")


def test_on_the_first_day_the_note_says_since_when_and_when_the_verdict_comes() -> None:
    start = NOW - timedelta(minutes=37)
    kpi = kpis.uptime(slots(37), start, NOW)
    assert kpi.verdict == "insufficient data" and kpi.value == 100.0
    assert kpi.note.startswith("since start: 37/37 slots, verdict from 2026-01-02T20:59Z")


def test_before_the_first_slot_is_over_none_is_called_unknown_or_down() -> None:
    kpi = kpis.uptime({}, NOW - timedelta(seconds=30), NOW)
    assert (kpi.value, kpi.coverage, kpi.verdict) == (None, 0.0, "insufficient data")
    assert kpi.note.endswith("no slot of 60 s is over yet") and "counted as down" not in kpi.note


def test_unknown_slots_count_as_down_with_the_hopeful_figure_beside() -> None:
    kpi = kpis.uptime(slots(1310), NOW - DAY * 2, NOW)
    assert kpi.value == pytest.approx(100 * 1310 / 1440)
    assert kpi.verdict == "missed" and "at best 100.0 %" in kpi.note


def test_below_ninety_percent_coverage_there_is_no_verdict() -> None:
    assert kpis.uptime(slots(1200), NOW - DAY * 2, NOW).verdict == "insufficient data"


def test_at_most_sixty_slots_of_maintenance_are_left_out() -> None:
    kept = {**slots(1360), **slots(80, "maintenance", NOW - kpis.SLOT * 1360)}
    kpi = kpis.uptime(kept, NOW - DAY * 2, NOW)
    assert kpi.value == pytest.approx(100 * 1360 / 1380)
    assert "20 more counted as down" in kpi.note


def test_without_slots_uptime_is_unknown() -> None:
    assert kpis.uptime({}, None, NOW).value is None


def test_mean_tes_is_over_tasks_with_effects() -> None:
    long_ago = NOW - DAY * 2
    day = kpis.TesDay(effects_known=10, effects_sum=970.0, rehearsals_known=5, rehearsals_sum=100.0)
    kpi = kpis.mean_tes(day, long_ago, NOW)
    assert (kpi.value, kpi.verdict) == (97.0, "met") and "5 rehearsals apart: 20.0" in kpi.note
    rehearsed = kpis.TesDay(rehearsals_known=5, rehearsals_sum=500.0)
    assert kpis.mean_tes(rehearsed, long_ago, NOW).verdict == "insufficient data"
    unknown = kpis.TesDay(effects_known=1, effects_sum=99, effects_unknown=9)
    assert kpis.mean_tes(unknown, long_ago, NOW).verdict == "insufficient data"
    assert kpis.mean_tes(kpis.TesDay(effects_known=2, effects_sum=190.0), long_ago, NOW).verdict == "missed"


def test_minutes_of_a_new_station_do_not_meet_a_days_target() -> None:
    kpi = kpis.mean_tes(kpis.TesDay(effects_known=1, effects_sum=99.0), NOW - timedelta(minutes=6), NOW)
    assert (kpi.value, kpi.verdict, kpi.note) == (99.0, "insufficient data", "1 task with effects")
    assert kpi.coverage == pytest.approx(6 / 1440)


def test_a_run_ended_well_only_when_its_score_says_so() -> None:
    good, bad = score(done(0), Limits()), score(End(state="failed"), Limits())
    unknown, idle = score(End(state="done"), Limits()), score(End(state="done", no_work=True), Limits())
    assert runs_in_words([good]) == "1 run ended well"
    assert runs_in_words([good, good, idle]) == "2 runs ended well"
    assert runs_in_words([unknown]) == "1 run ended with an unknown score"
    assert runs_in_words([bad, good, unknown]) == "1 run failed, 1 ended well, 1 ended with an unknown score"
    assert runs_in_words([idle]) == "nothing needed doing"


@pytest.mark.parametrize(
    ("count", "age", "verdict"),
    [(0, 48, "met"), (0, 3, "insufficient data"), (1, 48, "met"), (2, 3, "missed"), (2, 48, "missed")],
)
def test_overrides_are_missed_as_soon_as_there_are_two(count: int, age: int, verdict: str) -> None:
    events = {"task.undo": count} if count else {}
    assert kpis.overrides(events, {}, NOW - timedelta(hours=age), NOW).verdict == verdict


def test_a_persons_answers_are_told_beside_the_overrides_and_never_counted() -> None:
    founded = NOW - timedelta(days=3)
    kpi = kpis.overrides({"level.set": 1}, {"task.approved": 5, "task.rejected": 2}, founded, NOW)
    assert (kpi.value, kpi.verdict) == (1.0, "met")
    assert kpi.note == "1 × level.set; 5 approved, 2 rejected"


def test_one_executed_violation_misses_and_blocked_attempts_are_apart() -> None:
    assert kpis.policy_violations(0, 7, NOW - DAY, NOW).verdict == "met"
    assert "7 attempts blocked" in kpis.policy_violations(0, 7, NOW - DAY, NOW).note
    assert kpis.policy_violations(1, 0, NOW - timedelta(minutes=1), NOW).verdict == "missed"


def confident(now: float, before: float, tasks: int, age: timedelta = DAY) -> kpis.DomainConfidence:
    return kpis.DomainConfidence(domain="d", now=now, before=before, before_at=NOW - age, tasks=tasks)


def test_confidence_is_weighted_by_tasks() -> None:
    kpi = kpis.confidence_delta([confident(0.82, 0.80, 30), confident(0.5, 0.5, 10)], NOW)
    assert kpi.value == pytest.approx(1.5) and kpi.verdict == "met" and kpi.note.endswith("over 2 domains")
    assert kpis.confidence_delta([confident(0.8, 0.8, 1)], NOW).note.endswith("over 1 domain")
    assert kpis.confidence_delta([confident(0.8, 0.8, 1)], NOW).verdict == "missed"
    assert kpis.confidence_delta([confident(0.8, 0.5, 1, timedelta(hours=2))], NOW).verdict == "insufficient data"
    assert kpis.confidence_delta([], NOW).value is None


def test_above_95_percent_confidence_is_saturated_and_meets_the_target() -> None:
    kpi = kpis.confidence_delta([confident(0.96, 0.96, 5)], NOW)
    assert kpi.verdict == "met" and kpi.note.startswith("saturated")
    early = kpis.confidence_delta([confident(0.96, 0.96, 5, timedelta(hours=1))], NOW)
    assert early.verdict == "insufficient data", "an hour says nothing of a day"


# gates


def question(**facts: object) -> Question:
    usual = Question(
        kill_switch=None, ruling=Ruling(allowed=True, reason="built-in"), manifest=DOMAINS["log_rotation"], revoked="",
        procedure="gzip-6", level=Level.EXECUTE, approved_by="",
        use=Use(this_pulse=0, this_day=0, effects_this_pulse=0), probation=False, admit=lambda: (True, "room"),
    )  # fmt: skip
    return replace(usual, **facts)


def unreachable() -> tuple[bool, str]:
    raise Unavailable("connection refused")


@pytest.mark.parametrize(
    ("facts", "verdict", "gate"),
    [
        ({}, "go", ""),
        ({"kill_switch": "stop"}, "hold", "kill_switch"),
        ({"kill_switch": ""}, "hold", "kill_switch"),
        ({"ruling": Ruling(allowed=False, reason="no")}, "refuse", "policy"),
        ({"revoked": "noisy"}, "refuse", "manifest"),
        ({"procedure": "rm"}, "refuse", "manifest"),
        ({"level": Level.OBSERVE}, "record", "level"),
        ({"level": Level.SUGGEST}, "propose", "level"),
        ({"level": Level.GUIDE}, "go", ""),
        ({"level": Level.GUIDE, "approved_by": "operator"}, "go", ""),
        ({"level": Level.SUGGEST, "approved_by": "operator"}, "refuse", "level"),
        ({"level": Level.OBSERVE, "approved_by": "operator"}, "refuse", "level"),
        ({"admit": lambda: (False, "full")}, "hold", "admission"),
        ({"admit": unreachable}, "hold", "admission"),
        ({"use": Use(this_pulse=2, this_day=0, effects_this_pulse=0)}, "hold", "budget"),
        ({"use": Use(this_pulse=0, this_day=20_000, effects_this_pulse=0)}, "hold", "budget"),
        ({"probation": True, "use": Use(this_pulse=1, this_day=1, effects_this_pulse=1)}, "hold", "budget"),
        ({"probation": True}, "go", ""),
        ({"kill_switch": "stop", "ruling": Ruling(allowed=False, reason="no")}, "refuse", "policy"),
    ],
)
def test_each_gate_says_no_on_its_own(facts: dict[str, object], verdict: str, gate: str) -> None:
    gated = evaluate(question(**facts))
    assert gated.verdict == verdict
    assert [each.gate for each in gated.answers] == [
        "kill_switch", "policy", "manifest", "level", "admission", "budget",
    ]  # fmt: skip
    assert all(each.reason for each in gated.answers)
    if gate:
        assert next(each for each in gated.answers if each.gate == gate).answer in ("hold", "refuse")


def test_the_governor_is_not_asked_about_what_can_not_go() -> None:
    gated = evaluate(question(kill_switch="stop", admit=unreachable))
    assert gated.answers[4].answer == "not asked" and gated.answers[5].answer == "pass"


def test_the_shipped_policy_pins_exactly_the_shipped_manifests() -> None:
    policy = Policy.load(SHIPPED)
    wrong = [name for name, manifest in DOMAINS.items() if not policy.ruling(manifest).allowed]
    assert not wrong, "renew the pins: python -m services.cbo.policy > services/cbo/policy.json"


def test_a_changed_manifest_or_another_owner_is_denied() -> None:
    policy = Policy.load(SHIPPED)
    manifest = DOMAINS["diagnostics"]
    assert not policy.ruling(replace(manifest, digest="0" * 64)).allowed
    assert not policy.ruling(replace(manifest, owner="stranger")).allowed


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema":"other","allow":[]}'])
def test_an_unreadable_policy_denies(tmp_path: Path, content: str) -> None:
    path = tmp_path / "policy.json"
    path.write_text(content)
    assert not Policy.load(path).ruling(DOMAINS["diagnostics"]).allowed


# posterior, planner, random stream


def test_a_posterior_forgets_towards_the_prior() -> None:
    known = Posterior(at=NOW, successes=10)
    assert known.mean == pytest.approx(11 / 12)
    assert known.decayed(NOW + HALF_LIFE).successes == pytest.approx(5)
    assert known.decayed(NOW - HALF_LIFE) == known
    assert known.after(False, NOW).failures == 1


def test_calibration_of_perfect_and_of_wrong_predictions() -> None:
    perfect = [Bin(count=1, predicted=1.0, succeeded=1, squared_error=0.0)]
    assert calibration(perfect).brier == 0.0 and calibration(perfect).ece == 0.0
    wrong = calibration([Bin(count=4, predicted=3.6, succeeded=0, squared_error=3.24)])
    assert wrong.ece == pytest.approx(0.9) and wrong.brier == pytest.approx(0.81)
    assert calibration([]).brier is None


def candidate(name: str, successes: float, failures: float, **more: float) -> Candidate:
    return Candidate(procedure=name, posterior=Posterior(at=NOW, successes=successes, failures=failures, **more))


def test_the_planner_comes_to_prefer_what_works_and_what_is_cheap() -> None:
    good, bad = candidate("good", 40, 0), candidate("bad", 0, 40)
    picks = [choose([bad, good], Rng(n)).procedure for n in range(100)]
    assert picks.count("good") == 100
    dear = candidate("dear", 400, 0, cpu_seconds=10.0, bytes_written=1000.0)
    cheap = candidate("cheap", 400, 0, cpu_seconds=1.0, bytes_written=100.0)
    assert all(choose([dear, cheap], Rng(n)).procedure == "cheap" for n in range(50))


def test_recalled_runs_count_as_far_as_their_cap() -> None:
    many = replace(candidate("p", 0, 0), recalled_successes=50)
    assert many.beta == (1.0 + RECALL_CAP, 1.0)
    assert replace(many, recalled_successes=2, recalled_failures=1).beta == (3.0, 2.0)


def test_an_untried_procedure_is_still_tried_sometimes() -> None:
    picks = {choose([candidate("known", 10, 1), candidate("new", 0, 0)], Rng(n)).procedure for n in range(200)}
    assert picks == {"known", "new"}


def test_the_stream_is_fixed_by_its_version() -> None:
    rng = Rng(0)
    assert [rng.bits() for _ in range(3)] == [16294208416658607535, 7960286522194355700, 487617019471545679]
    assert Rng.of("st", "bp-000000001").seed == Rng.of("st", "bp-000000001").seed
    assert Rng.of("a", "bc").seed != Rng.of("ab", "c").seed


def test_draws_have_the_moments_of_their_distribution() -> None:
    rng = Rng(7)
    normal = [rng.normal() for _ in range(20_000)]
    assert abs(sum(normal) / 20_000) < 0.03
    for shape in (0.4, 1.0, 7.5):
        gamma = [rng.gamma(shape) for _ in range(20_000)]
        assert sum(gamma) / 20_000 == pytest.approx(shape, rel=0.05)
    beta = [rng.beta(2.0, 6.0) for _ in range(20_000)]
    assert sum(beta) / 20_000 == pytest.approx(0.25, abs=0.01)
    assert math.sqrt(sum((b - 0.25) ** 2 for b in beta) / 20_000) == pytest.approx(math.sqrt(12 / (64 * 9)), abs=0.01)


@given(st.integers(0, 2**64 - 1), st.floats(0.01, 500), st.floats(0.01, 500))
def test_a_beta_draw_is_a_share(seed: int, a: float, b: float) -> None:
    assert 0.0 <= Rng(seed).beta(a, b) <= 1.0
    assert 0.0 <= Rng(seed).uniform() < 1.0


@pytest.mark.parametrize("shape", [0.0, -1.0, math.inf, math.nan])
def test_impossible_shapes_are_refused(shape: float) -> None:
    with pytest.raises(ValueError, match="shape"):
        Rng(1).gamma(shape)


# objectives, tasks


def objective(schedule: Schedule, last: datetime | None = None) -> Objective:
    return Objective(
        id="o", text="x", domain="d", source="operator", created_at=NOW, schedule=schedule, last_planned_at=last
    )


MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("schedule", "last", "is_due"),
    [
        (Schedule(), None, True),
        (Schedule(), NOW - DAY, False),
        (Schedule(every_pulse=True), NOW - MINUTE, True),
        (Schedule(every=DAY), None, True),
        (Schedule(every=DAY), NOW - timedelta(hours=23), False),
        (Schedule(every=DAY), NOW - DAY * 7, True),
        (Schedule(every=MINUTE), NOW - MINUTE + timedelta(milliseconds=50), True),
        (Schedule(every=MINUTE), NOW - MINUTE / 3, False),
        (Schedule(at=NOW + MINUTE), None, False),
        (Schedule(at=NOW - DAY), None, True),
        (Schedule(at=NOW - DAY), NOW - DAY, False),
    ],
)
def test_when_an_objective_is_due(schedule: Schedule, last: datetime | None, is_due: bool) -> None:
    made = objectives.due(objective(schedule, last), NOW, MINUTE, has_open_task=False)
    assert made.due is is_due and made.reason
    assert not objectives.due(objective(schedule, last), NOW, MINUTE, has_open_task=True).due


def test_words_and_times_that_can_not_be_meant_are_refused() -> None:
    for text, schedule in [
        ("", Schedule()),
        ("x" * 2001, Schedule()),
        ("x", Schedule(every=timedelta(milliseconds=1))),
        ("x", Schedule(every=MINUTE, every_pulse=True)),
    ]:
        with pytest.raises(InvalidInput):
            objectives.check(text, schedule)


def test_every_transition_leads_to_a_known_state_and_ends_are_final() -> None:
    assert all(to <= set(TRANSITIONS) for to in TRANSITIONS.values())
    for end in ("expired", "rejected", "undone"):
        assert not TRANSITIONS[end]
    for cut_short in ("failed", "cancelled"):
        assert TRANSITIONS[cut_short] == {"undone"}, "what a stopped program left behind can be taken back"


def test_targets_are_inside_only_below_their_folder() -> None:
    roots = ["/station/logs"]
    assert outside_of(["/station/logs/a.log", "/station/logs/x/../b"], roots) == []
    assert outside_of(["/station/logs2/a", "/station/logs/../secrets", "/etc/passwd"], roots) == [
        "/station/logs2/a", "/station/logs/../secrets", "/etc/passwd",
    ]  # fmt: skip
