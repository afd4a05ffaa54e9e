import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from chassis.clock import iso
from services.guardian.causes import Evidence, root_cause
from services.guardian.evidence import last_errors, last_words

EVIDENCE = st.builds(
    Evidence,
    target=st.just("memory"),
    answer=st.sampled_from(["", "unreachable: refused", "not_serving"]),
    process=st.sampled_from(["running", "failed", "stopped", "unknown", "starting"]),
    exit_code=st.sampled_from([None, -1, 0, 1, 2]),
    signal=st.sampled_from(["", "SIGKILL", "SIGSEGV", "SIGTERM"]),
    oom_killed=st.booleans(),
    ram_percent=st.one_of(st.none(), st.floats(0, 100)),
    disk_free_bytes=st.one_of(st.none(), st.integers(0, 2**40)),
    config_changed_seconds=st.one_of(st.none(), st.floats(0, 1e6)),
    config_suspect=st.booleans(),
    down_too=st.lists(st.sampled_from(["cbo", "governor", "analytics"]), unique=True).map(tuple),
    recent_faults=st.integers(0, 5),
    errors=st.lists(st.sampled_from(["boom: why", "No space left on device"]), max_size=3).map(tuple),
    reported_by=st.sampled_from(["", "cbo"]),
    symptom=st.sampled_from(["", "slow"]),
)


@given(EVIDENCE)
def test_causes_are_ranked_backed_by_evidence_and_can_be_disproved(evidence: Evidence) -> None:
    causes = root_cause(evidence)
    assert causes
    assert [c.confidence for c in causes] == sorted((c.confidence for c in causes), reverse=True)
    for cause in causes:
        assert 0 < cause.confidence < 1
        assert cause.evidence
        assert all(cause.evidence)
        assert cause.disproved_by


def first(**facts: object) -> str:
    return root_cause(Evidence(target="memory", **facts))[0].cause  # type: ignore[arg-type] # by each field's name


def test_the_most_telling_evidence_comes_first() -> None:
    assert "SIGKILL" in first(process="failed", signal="SIGKILL")
    assert first(process="failed", signal="SIGKILL", oom_killed=True) == "out of memory"
    assert "disk" in first(process="failed", exit_code=1, disk_free_bytes=1024)
    assert "configuration" in first(process="failed", exit_code=2, config_suspect=True, config_changed_seconds=5.0)
    assert "hung" in first(process="running", answer="unreachable: no answer within 3 s")
    assert first() == "not known"


def test_only_recent_error_lines_count_and_torn_ones_do_no_harm(tmp_path: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    log = tmp_path / "memory.log"

    def line(seconds: float, level: str, event: str) -> str:
        return json.dumps({"at": iso(now - timedelta(seconds=seconds)), "level": level, "event": event, "why": "w"})

    log.write_text(
        "\n".join([line(500, "error", "old"), line(9, "info", "fine"), line(5, "error", "new"), '{"at": "tor'])
    )
    assert last_errors(log, now) == ("new: w",)
    assert last_errors(tmp_path / "none.log", now) == ()


def test_what_python_said_at_the_end_counts_while_it_is_fresh(tmp_path: Path) -> None:
    output = tmp_path / "memory.out"
    output.write_text("Traceback\nmemory: bad settings: CALYX_MEMORY_X: not a number\n\n")
    written = datetime.fromtimestamp(output.stat().st_mtime, UTC)
    assert last_words(tmp_path, "memory", written) == ("memory: bad settings: CALYX_MEMORY_X: not a number",)
    assert last_words(tmp_path, "memory", written + timedelta(minutes=5)) == ()
