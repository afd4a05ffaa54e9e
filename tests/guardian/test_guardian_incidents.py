from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.runtime.port import State
from services.guardian.incidents import Action, Class, Decision, Look, Terms, Track, acted, decide, not_acted, released

TERMS = Terms()


class Target:
    """A service as the guardian meets it: looks every second, actions answered by `starts`."""

    def __init__(self, starts: list[str] | None = None, *, suspect: bool = False) -> None:
        self.track = Track(target="memory", started=-100.0, last_up=0.0, up_since=-1000.0)
        self.mono, self.process, self.answers = 0.0, "running", True
        self.starts, self.suspect = list(starts or []), suspect
        self.actions: list[tuple[float, Action]] = []
        self.decisions: list[Decision] = []

    def look(self, held: str = "", mass: bool = False) -> Decision:
        self.mono += 1.0
        process: State = self.process  # type: ignore[assignment] # a test writes the states as plain text
        seen = Look(
            mono=self.mono,
            answered=self.answers,
            process=process,
            held=held,
            config_suspect=self.suspect,
            mass=mass,
        )
        decision = decide(self.track, seen, TERMS)
        self.track = decision.track
        self.decisions.append(decision)
        if decision.action is not None:
            self.actions.append((self.mono, decision.action))
            if decision.action == "quarantine":
                self.process, self.answers = "stopped", False
            else:
                self.track = acted(self.track, self.mono)
                self.start(self.starts.pop(0) if self.starts else "ok")
        return decision

    def start(self, how: str) -> None:
        self.process, self.answers = {
            "ok": ("running", True),
            "dead": ("failed", False),
            "hung": ("running", False),
            "slow": ("starting", False),
        }[how]

    def run(self, seconds: int, **kwargs: object) -> None:
        for _ in range(seconds):
            self.look(**kwargs)  # type: ignore[arg-type] # held and mass only

    def kill(self) -> None:
        self.process, self.answers = "failed", False

    @property
    def opened(self) -> int:
        return sum(d.opened for d in self.decisions)

    @property
    def closed(self) -> int:
        return sum(d.closed for d in self.decisions)


def test_a_killed_process_is_restarted_at_the_first_look() -> None:
    target = Target()
    target.kill()
    decision = target.look()
    assert (decision.opened, decision.action) == (True, "restart")
    assert target.look().closed
    assert target.track.outage is None


def test_one_unanswered_probe_of_a_running_process_is_no_fault() -> None:
    target = Target()
    target.answers = False
    assert not target.look().opened
    target.answers = True
    target.run(5)
    assert (target.opened, target.actions) == (0, [])


def test_a_hung_process_is_reported_after_two_probes_and_restarted_after_four() -> None:
    target = Target()
    target.answers = False
    target.run(3)
    assert (target.opened, target.actions) == (1, [])
    target.look()
    assert target.actions == [(4.0, "restart")]


def test_a_second_fault_within_ten_minutes_is_major_and_a_later_one_is_not() -> None:
    target = Target()
    target.kill()
    target.run(60)
    target.kill()
    target.look()
    assert target.decisions[-1].action == "rollback"
    assert target.track.outage is not None
    assert target.track.outage.severity is Class.MAJOR
    target.run(700)
    target.kill()
    assert target.look().action == "restart"


def test_a_bad_start_after_a_change_rolls_back_at_the_second_try() -> None:
    target = Target(["dead", "ok"], suspect=True)
    target.kill()
    target.run(10)
    assert [action for _, action in target.actions] == ["restart", "rollback"]
    assert any(d.escalated for d in target.decisions)


def test_six_starts_in_a_row_that_do_not_come_up_end_in_quarantine() -> None:
    target = Target(["dead"] * 20)
    target.kill()
    target.run(300)
    assert [a for _, a in target.actions] == ["restart", "restart", *["rollback"] * 4, "quarantine"]
    assert target.track.quarantined
    assert target.opened == 1
    waits = [b - a for (a, _), (b, _) in pairwise(target.actions[:-1])]
    assert max(waits) <= 16
    assert waits == sorted(waits)


def test_a_slow_start_is_waited_for() -> None:
    target = Target(["slow"])
    target.kill()
    target.run(100)
    assert len(target.actions) == 1
    target.start("ok")
    assert target.look().closed


def test_more_than_half_down_is_never_answered_by_quarantine() -> None:
    target = Target(["dead"] * 50)
    target.kill()
    target.run(1000, mass=True)
    assert "quarantine" not in {action for _, action in target.actions}
    assert 10 <= len(target.actions) <= 20


def test_what_is_held_is_not_healed() -> None:
    target = Target()
    target.kill()
    target.run(100, held="planned downtime")
    assert (target.opened, target.actions) == (0, [])
    assert target.look().action == "restart"


def test_a_released_target_gets_its_six_starts_again() -> None:
    target = Target(["dead"] * 30)
    target.kill()
    target.run(200)
    assert target.track.quarantined
    target.track = released(target.track, target.mono)
    target.start("ok")
    assert target.look().closed
    assert not target.track.quarantined


def test_an_action_the_runtime_did_not_take_is_tried_again_and_counts_for_nothing() -> None:
    target = Target()
    track = decide(target.track, Look(mono=1.0, answered=False, process="failed"), TERMS).track
    for second in range(1, 100):
        decision = decide(track, Look(mono=float(second), answered=False, process="failed"), TERMS)
        track = not_acted(decision.track, float(second), TERMS) if decision.action else decision.track
        assert decision.action != "quarantine"


FAULTS = st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["kill", "hang", "blip"])), max_size=25)


@given(FAULTS, st.lists(st.sampled_from(["ok", "ok", "ok", "slow", "hung", "dead"]), max_size=60), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_service_that_keeps_recovering_is_never_quarantined_and_each_outage_has_one_incident(
    faults: list[tuple[int, str]], starts: list[str], suspect: bool
) -> None:
    # Never six dead starts in a row: such a service does come up.
    tamed = [how if (n + 1) % 5 else "ok" for n, how in enumerate(starts)]
    target = Target(tamed, suspect=suspect)
    for seconds, fault in faults:
        target.run(seconds)
        if fault == "kill":
            target.kill()
        elif fault == "hang":
            target.process, target.answers = "running", False
        elif target.process == "running" and target.answers:
            target.answers = False
            target.look()
            target.answers = True
        assert target.opened - target.closed in (0, 1)
        assert (target.track.outage is not None) == (target.opened > target.closed)
    for _ in range(1500):
        if target.process == "starting":
            target.start("ok")
        target.look()
    assert not target.track.quarantined
    assert target.opened == target.closed
    assert target.answers
    assert "quarantine" not in {action for _, action in target.actions}


def test_an_action_is_never_repeated_before_the_last_one_was_judged() -> None:
    target = Target(["hung"] * 50)
    target.kill()
    target.run(120)
    times = [at for at, _ in target.actions]
    assert all(later - earlier >= TERMS.settle_seconds for earlier, later in pairwise(times))


def test_severity_only_grows_within_an_outage() -> None:
    target = Target(["dead"] * 20)
    target.kill()
    seen = []
    for _ in range(200):
        target.look()
        if target.track.outage is not None:
            seen.append(target.track.outage.severity)
    assert seen == sorted(seen)
    assert seen[-1] is Class.CRITICAL
    assert target.track.quarantined
