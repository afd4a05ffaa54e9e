import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_fakes import START, HashEmbedder, experience

from chassis.errors import Damaged, InvalidInput, NotFound
from services.memory.embedding import check_vectors
from services.memory.exact import ExactIndex
from services.memory.experience import Outcome
from services.memory.index import Near
from services.memory.memory import Memory
from services.memory.minilm import MiniLM
from services.memory.recall import FLOOR, Query, gate

Make = Callable[..., Memory]


def ids(memory: Memory, objective: str, **terms: object) -> list[str]:
    return [each.experience.id for each in memory.recall(Query(objective=objective, **terms)).matches]  # type: ignore[arg-type]  # terms by name


def _raw(path: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    connection = sqlite3.connect(path)
    for name in ("event_stays_as_is", "event_stays", "outcome_stays_as_is", "outcome_stays"):
        connection.execute(f"DROP TRIGGER {name}")
    for statement, terms in statements:
        connection.execute(statement, terms)
    connection.commit()
    connection.close()


# recording


def test_a_recorded_experience_is_found_at_once_and_after_a_restart(make_memory: Make) -> None:
    memory = make_memory()
    assert memory.record(experience(1)) is True
    assert ids(memory, "rotate the logs") == ["e-1"]
    assert ids(make_memory(), "rotate the logs") == ["e-1"]


def test_a_repeat_is_not_created_and_counts_once(make_memory: Make) -> None:
    memory = make_memory()
    memory.record(experience(1))
    assert memory.record(experience(1)) is False
    assert memory.stats().experiences == 1


def test_a_row_whose_objective_could_not_be_embedded_is_kept_pending_and_taken_up_later(make_memory: Make) -> None:
    embedder = HashEmbedder()
    memory = make_memory(embedder)
    memory.record(experience(1, objective="compress the archive"))
    embedder.broken = True
    assert memory.record(experience(2)) is True
    embedder.broken = False
    found = memory.recall(Query(objective="rotate the logs"))
    assert (found.matches, found.pending, found.searched) == ((), 1, 1)
    assert memory.catch_up() == 1
    found = memory.recall(Query(objective="rotate the logs"))
    assert ([each.experience.id for each in found.matches], found.pending) == (["e-2"], 0)
    assert memory.upkeep.verify().ok


def test_a_row_the_index_refused_is_pending_and_taken_up_later(make_memory: Make) -> None:
    class Refusing(ExactIndex):
        refuses = False

        def add(self, keys: object, vectors: object) -> None:
            if self.refuses:
                raise OSError("no space")
            super().add(keys, vectors)  # type: ignore[arg-type]  # passed on as it came

    index = Refusing(64)
    memory = make_memory(index=index)
    index.refuses = True
    assert memory.record(experience(1)) is True
    assert memory.recall(Query(objective="rotate the logs")).pending == 1
    index.refuses = False
    assert memory.catch_up() == 1
    assert ids(memory, "rotate the logs") == ["e-1"]


def test_vectors_of_another_model_are_never_compared_but_made_anew(make_memory: Make) -> None:
    make_memory(HashEmbedder(salt="old")).record(experience(1))
    memory = make_memory(HashEmbedder(salt="new"))
    found = memory.recall(Query(objective="rotate the logs"))
    assert (found.matches, found.searched, found.pending) == ((), 0, 1)
    assert memory.catch_up() == 1
    assert ids(memory, "rotate the logs") == ["e-1"]
    assert memory.upkeep.verify().ok


@pytest.mark.parametrize("bad", [np.zeros((1, 4)), np.full((1, 4), np.nan), np.ones((1, 5)), np.ones((1, 4))])
def test_a_vector_that_is_none_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(Damaged):
        check_vectors(bad.astype(np.float32), 4)


# recalling


def test_an_amended_outcome_is_what_recall_and_summary_tell(make_memory: Make) -> None:
    memory = make_memory()
    memory.record(experience(1))
    assert memory.amend("e-1", Outcome.FAILURE, "regressed at +1 h", "v-1") is True
    assert memory.amend("e-1", Outcome.FAILURE, "regressed at +1 h", "v-1") is False
    for each in (memory, make_memory()):
        found = each.recall(Query(objective="rotate the logs"))
        assert found.matches[0].experience.outcome is Outcome.FAILURE
        assert [(s.successes, s.failures, s.mean_tes) for s in found.summaries] == [(0, 1, 97.5)]
    with pytest.raises(NotFound):
        memory.amend("e-9", Outcome.FAILURE, "", "v-2")


def test_summaries_count_all_the_evidence_and_not_only_what_is_returned(make_memory: Make) -> None:
    memory = make_memory()
    for number in range(1, 121):
        failed = number % 4 == 0
        memory.record(
            experience(
                number,
                procedure="xz" if number % 3 == 0 else "gzip-6",
                outcome=Outcome.FAILURE if failed else Outcome.SUCCESS,
                tes=50.0 if failed else None,
            )
        )
    found = memory.recall(Query(objective="rotate the logs", limit=3))
    assert len(found.matches) == 3
    assert [(s.procedure, s.successes, s.failures, s.mean_tes) for s in found.summaries] == [
        ("gzip-6", 60, 20, 50.0),
        ("xz", 30, 10, 50.0),
    ]


def test_unknown_and_no_work_count_neither_way(make_memory: Make) -> None:
    memory = make_memory()
    memory.record(experience(1, outcome=Outcome.UNKNOWN, tes=None))
    memory.record(experience(2, outcome=Outcome.NO_WORK, tes=None))
    summary = memory.recall(Query(objective="rotate the logs")).summaries[0]
    assert (summary.successes, summary.failures, summary.mean_tes) == (0, 0, None)


def test_at_most_two_copies_of_the_same_event_are_returned_and_the_rest_is_counted(make_memory: Make) -> None:
    memory = make_memory()
    for number in range(1, 11):
        memory.record(experience(number))
    assert ids(memory, "rotate the logs", limit=4) == ["e-10", "e-9"]
    assert [each.copies for each in memory.recall(Query(objective="rotate the logs")).matches] == [10, 10]
    memory.record(experience("failed", outcome=Outcome.FAILURE, occurred_at=START))
    memory.record(experience("xz", procedure="xz", occurred_at=START - timedelta(days=1)))
    assert ids(memory, "rotate the logs", limit=4) == ["e-10", "e-9", "e-failed", "e-xz"]


def test_filters_by_namespace_domain_procedure_time_and_context(make_memory: Make) -> None:
    memory = make_memory()
    memory.record(experience(1))
    memory.record(experience(2, namespace="lab"))
    memory.record(experience(3, domain="cleanup"))
    memory.record(experience(4, procedure="xz"))
    memory.record(experience(5, context={"site": "there", "size": "big"}))
    ask = "rotate the logs"
    assert set(ids(memory, ask)) == {"e-1", "e-3", "e-4", "e-5"}
    assert ids(memory, ask, namespace="lab") == ["e-2"]
    assert ids(memory, ask, namespace="nowhere") == []
    assert ids(memory, ask, domain="cleanup") == ["e-3"]
    assert ids(memory, ask, procedure="xz") == ["e-4"]
    assert set(ids(memory, ask, since=START + timedelta(minutes=3))) == {"e-4", "e-5"}
    assert ids(memory, ask, context={"site": "there"}) == ["e-5"]
    assert ids(memory, ask, context={"site": "there", "size": "small"}) == []
    assert memory.recall(Query(objective=ask, namespace="lab")).searched == 1


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"objective": ""}, "empty"),
        ({"objective": "x" * 8001}, "8,001"),
        ({"objective": "rotate\x1b[2J"}, "control character"),
        ({"objective": "a", "min_cosine": 0.5}, "set near"),
        ({"objective": "a", "min_cosine": float("nan")}, "min_cosine"),
        ({"objective": "a", "limit": 51}, "limit"),
        ({"objective": "a", "limit": -1}, "limit"),
    ],
)
def test_a_question_that_can_not_be_right_says_what_to_do(
    make_memory: Make, terms: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        make_memory().recall(Query(**terms))  # type: ignore[arg-type]  # terms by name


@given(
    cosine=st.floats(-1, 1), asked=st.none() | st.floats(FLOOR, 1), near=st.booleans(), weak=st.none() | st.floats(0, 1)
)
def test_nothing_at_or_below_the_floor_ever_passes_unflagged(
    cosine: float, asked: float | None, near: bool, weak: float | None
) -> None:
    query = Query(objective="rotate the logs", near=near, min_cosine=weak if near else asked)
    passed = gate(query, [Near(key=1, cosine=cosine)], {1: "rotate the logs"})
    floor = max(FLOOR, query.min_cosine or 0.0)
    if cosine > floor:
        assert [each.near for each in passed] == [False]
    elif passed:
        assert near
        assert passed[0].near


def test_the_floor_is_strict_to_the_last_bit() -> None:
    query = Query(objective="rotate the logs")
    hits = [Near(key=1, cosine=0.80), Near(key=2, cosine=0.80 + 1e-9)]
    assert [each.objective for each in gate(query, hits, {1: "logs", 2: "logs"})] == [2]


# with the real model


def test_the_packaged_model_is_deterministic_and_independent_of_the_batch(minilm: MiniLM) -> None:
    texts = ["rotate the logs", "check the health of the station", "rotate the logs and compress them " * 60]
    fresh = MiniLM.packaged(cached_texts=0)
    together = fresh.embed(texts)
    assert together.shape == (3, fresh.dimension)
    for row, text in enumerate(texts):
        assert fresh.embed([text])[0].tobytes() == together[row].tobytes() == minilm.embed([text])[0].tobytes()


def test_the_folded_model_gives_the_same_bytes_and_is_made_anew_when_damaged(tmp_path: Path, minilm: MiniLM) -> None:
    texts = ["rotate the logs", "enable the firewall " * 100]
    expected = minilm.embed(texts).tobytes()
    assert MiniLM.packaged(prepared=tmp_path / "model").embed(texts).tobytes() == expected
    (made,) = (tmp_path / "model").iterdir()
    weights = made / "weights.bin"
    with weights.open("r+b") as file:
        file.write(b"damaged")
    assert MiniLM.packaged(prepared=tmp_path / "model").embed(texts).tobytes() == expected
    assert not weights.read_bytes().startswith(b"damaged")
    (tmp_path / "file").write_text("no folder can be made here")
    assert MiniLM.packaged(prepared=tmp_path / "file" / "model").embed(texts).tobytes() == expected


def test_a_model_file_with_another_digest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.memory.minilm.MODEL_SHA256", "0" * 64)
    with pytest.raises(Damaged, match="reinstall"):
        MiniLM.packaged()


def test_a_folder_of_ones_own_must_hold_a_model(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.onnx").write_text("no model")
    with pytest.raises(Damaged):
        MiniLM.from_folder(tmp_path)


def test_what_is_less_alike_than_the_floor_is_not_returned_unless_asked_for_and_then_flagged(
    make_memory: Make, minilm: MiniLM
) -> None:
    memory = make_memory(minilm)
    memory.record(experience(1, objective="rotate and compress the log files of the station"))
    memory.record(experience(2, objective="check the health of all services"))
    ask = "shrink old journal output"
    cosines = minilm.embed([ask]) @ minilm.embed([e.objective for e in memory.newest(2, "")]).T
    assert 0.2 < cosines.max() < 0.8
    assert ids(memory, ask) == []
    found = memory.recall(Query(objective=ask, near=True, min_cosine=0.2))
    assert found.matches
    assert all(each.near and each.cosine <= 0.8 for each in found.matches)
    assert found.summaries == ()


def test_meaning_is_found_where_words_differ_and_shared_letters_are_not_enough(
    make_memory: Make, minilm: MiniLM
) -> None:
    memory = make_memory(minilm)
    memory.record(experience("logs", objective="rotate the log files"))
    memory.record(experience("catalog", objective="show the catalog of products in the blog"))
    assert ids(memory, "rotate the logs") == ["e-logs"]
    assert ids(memory, "log") == []


def test_the_opposite_is_not_recalled_however_alike_it_looks(make_memory: Make, minilm: MiniLM) -> None:
    memory = make_memory(minilm)
    pairs = [
        ("enable the firewall on the server", "disable the firewall on the server"),
        ("start the backup job", "stop the backup job"),
        ("rotate the log files", "do not rotate the log files"),
    ]
    alike = [float(minilm.embed([one])[0] @ minilm.embed([other])[0]) for one, other in pairs]
    assert max(alike) > 0.8  # else the guard would have nothing to do here
    for number, (one, _) in enumerate(pairs):
        memory.record(experience(number, objective=one))
    for number, (one, other) in enumerate(pairs):
        assert ids(memory, other) == []
        assert ids(memory, one) == [f"e-{number}"]


# keeping


def test_verify_finds_nothing_wrong_where_nothing_is(make_memory: Make) -> None:
    memory = make_memory()
    for number in range(1, 21):
        memory.record(experience(number, objective=f"objective {number % 5}"))
    verdict = memory.upkeep.verify()
    assert verdict.damages == ()
    assert (verdict.experiences, verdict.vectors) == (20, 5)
    assert memory.stats().verified_at == verdict.verified_at


@pytest.mark.parametrize(
    ("statement", "terms", "named"),
    [
        ("UPDATE objective SET text = 'rotate the dogs' WHERE key = 2", (), "e-2"),
        ("UPDATE vector SET vector = zeroblob(256) WHERE objective = 2", (), "vector 2"),
        ("UPDATE objective SET text = CAST(? AS TEXT) WHERE key = 2", (b"\xff\xfe",), "e-2"),
        ("UPDATE event SET occurred_at = 'sometime' WHERE seq = 2", (), "e-2"),
        ("UPDATE context SET value = 'elsewhere' WHERE event = 2", (), "e-2"),
        ("UPDATE confidence SET predicted = 1.0 WHERE event = 2", (), "e-2"),
        ("UPDATE outcome SET outcome = 'failure' WHERE event = 2", (), "e-2"),
        ("UPDATE outcome SET cost = 'null' WHERE event = 2", (), "e-2"),
        ("DELETE FROM outcome WHERE event = 2", (), "e-2"),
        ("UPDATE event SET objective = 1 WHERE seq = 2", (), "e-2"),
        ("DELETE FROM event WHERE seq = 3", (), "event row 3"),
        ("INSERT INTO confidence VALUES (77, 0.5)", (), "confidence row 77"),
    ],
)
def test_each_damage_in_the_file_is_found_and_named_and_not_recalled(
    make_memory: Make, tmp_path: Path, statement: str, terms: tuple[object, ...], named: str
) -> None:
    memory = make_memory()
    for number in (1, 2, 3):
        memory.record(experience(number, objective=f"objective number {number}"))
    _raw(tmp_path / "memory" / "experience.sqlite", (statement, terms))
    verdict = memory.upkeep.verify()
    assert not verdict.ok
    assert any(named in each.what for each in verdict.damages), verdict.damages
    assert "e-1" not in str(verdict.damages)
    if named == "e-2":
        assert ids(memory, "objective number 2") == []
        assert [each.id for each in memory.newest(10, "")] == ["e-3", "e-1"]
        restarted = make_memory()
        assert not restarted.upkeep.verify().ok
        assert ids(restarted, "objective number 1") == ["e-1"]


def test_flipped_bytes_in_a_page_are_found(make_memory: Make, tmp_path: Path) -> None:
    memory = make_memory()
    for number in range(1, 200):
        memory.record(experience(number, objective=f"objective number {number}"))
    memory.upkeep.compact(dry_run=False)
    path = tmp_path / "memory" / "experience.sqlite"
    path.write_bytes(path.read_bytes().replace(b"objective number 77", b"Objective number 77"))
    verdict = make_memory().upkeep.verify()
    assert any("e-77" in each.what for each in verdict.damages)


def test_an_index_that_lost_changed_or_invented_an_entry_is_found_and_rebuilt(make_memory: Make) -> None:
    index = ExactIndex(64)
    memory = make_memory(index=index)
    for number in (1, 2, 3):
        memory.record(experience(number, objective=f"objective number {number}"))
    embedder = HashEmbedder()
    index.rebuild([([1, 3, 9], embedder.embed(["objective number 1", "something else", "never seen"]))])
    named = {each.what: each.why for each in memory.upkeep.verify().damages}
    assert "is missing" in named["vector 2"]
    assert "another vector" in named["vector 3"]
    assert "no vector" in named["index entry 9"]
    memory.upkeep.rebuild_index()
    assert memory.upkeep.verify().ok
    memory.upkeep.check()


def test_health_says_when_index_and_store_differ_in_size(make_memory: Make) -> None:
    index = ExactIndex(64)
    memory = make_memory(index=index)
    memory.record(experience(1))
    memory.upkeep.check()
    index.rebuild([])
    with pytest.raises(Damaged, match="rebuild-index"):
        memory.upkeep.check()


def test_a_backup_opens_as_a_store_and_holds_everything(make_memory: Make, tmp_path: Path) -> None:
    memory = make_memory()
    for number in (1, 2, 3):
        memory.record(experience(number))
    made = memory.upkeep.backup(tmp_path / "memory" / "backups")
    assert made.path.stat().st_size == made.size_bytes
    assert sorted(each.name for each in made.path.parent.iterdir()) == [made.path.name, f"{made.path.name}.sha256"]
    copy = sqlite3.connect(made.path)
    assert [row[0] for row in copy.execute("SELECT id FROM event ORDER BY seq")] == ["e-1", "e-2", "e-3"]
    copy.close()


def test_compaction_merges_nothing_and_says_so(make_memory: Make) -> None:
    memory = make_memory()
    memory.record(experience(1))
    said, done = memory.upkeep.compact(dry_run=True), memory.upkeep.compact(dry_run=False)
    assert said == replace(done, freed_bytes=None)
    assert (done.merged, done.kept, done.retired) == (0, 1, 0)
    assert ids(memory, "rotate the logs") == ["e-1"]
