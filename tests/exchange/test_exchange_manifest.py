"""The manifest in code and the schema in deploy/svf say the same."""

import contextlib
import json
from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
from exchange_world import SIGNER, VERIFIER, task
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from chassis.canonical import canonical_json
from chassis.clock import VirtualClock
from chassis.errors import BadSignature, InvalidInput, Unavailable
from chassis.exchange.grants import Signer, Verifier
from chassis.exchange.manifest import Ack, Manifest
from chassis.layout import DEPLOY

SCHEMA = json.loads((DEPLOY / "svf" / "svf2_manifest_v2.json").read_bytes())
VALIDATOR = Draft202012Validator(SCHEMA)
GOOD = task(VirtualClock(), "t-1", dependencies=("a", "b"), params={"x": "y"}, artifacts=({"sha256": "0", "size": 1},))
FIELDS = sorted(each.name for each in fields(Manifest) if each.init)

ids = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,119}", fullmatch=True)
plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.datetimes(
    min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)  # noqa: DTZ001 - Hypothesis wants naive bounds
)  # fmt: skip
good = st.builds(
    Manifest, station_id=plain.filter(bool), task_id=ids, owner=ids, issuer=plain.filter(bool), domain=ids,
    procedure=plain.filter(bool), created_at=times, expires_at=times,
    ttl_seconds=st.floats(min_value=0, max_value=7776000, exclude_min=True), objective=plain,
    params=st.dictionaries(plain, plain, max_size=3), dependencies=st.lists(ids, max_size=3).map(tuple),
    max_attempts=st.integers(1, 9), priority=st.integers(0, 9), rehearsal=st.booleans(), approval=plain, level=plain,
    artifacts=st.lists(st.fixed_dictionaries({"sha256": plain, "size": st.integers()}), max_size=2).map(tuple),
    trace=plain, grant=plain,
)  # fmt: skip
FRACTIONS = st.floats(-10, 10**8).filter(lambda x: not x.is_integer())  # to a schema 5.0 is an integer
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**7) | FRACTIONS | plain | ids
    | st.sampled_from(["2.0", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "A", "..", "a/b", 7776000, 9, 10]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(plain, inner, max_size=2), max_leaves=3,
)  # fmt: skip


def accepted(value: object) -> bool:
    try:
        Manifest.from_json(value)
    except InvalidInput:
        return False
    return True


@given(good)
def test_every_manifest_the_code_makes_passes_the_schema_and_reads_back_the_same(manifest: Manifest) -> None:
    value = json.loads(json.dumps(manifest.to_json()))
    VALIDATOR.validate(value)
    assert Manifest.from_json(value) == manifest


@given(st.sampled_from([*FIELDS, "surprise"]), anything)
def test_code_and_schema_agree_on_any_value_of_any_field(field: str, value: object) -> None:
    changed = {**GOOD.to_json(), field: value}
    assert accepted(changed) == VALIDATOR.is_valid(changed)


NASTY = [
    None, True, False, 0, 1, -1, 9, 10, 0.5, 7776000, 7776001, 10.5, "", "a", "A", "..", "a/b", "x\n", "\n", "a" * 120,
    "a" * 121, "é", "2.0", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01T00:00:00.5Z", "20260101T000000Z",
    "2026-01-01 00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00+25:00", "2026-01-01T00:00:00+02:00",
    "2026-01-01T00:00:00Z\n", "2026-01-01T24:00:00Z", [], ["a"], ["A"], [1], [{}], [{"a": 1}], [[]], {}, {"a": "b"},
    {"a": 1}, {"a": None},
]  # fmt: skip


@pytest.mark.parametrize("field", [*FIELDS, "surprise"])
def test_code_and_schema_agree_on_every_nasty_value_of_every_field(field: str) -> None:
    for value in NASTY:
        changed = {**GOOD.to_json(), field: value}
        assert accepted(changed) == VALIDATOR.is_valid(changed), (field, value)


@given(st.sampled_from(FIELDS))
def test_code_and_schema_agree_on_what_may_be_left_out(field: str) -> None:
    without = {key: value for key, value in GOOD.to_json().items() if key != field}
    assert accepted(without) == VALIDATOR.is_valid(without)


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_only_an_object_is_a_manifest(value: object) -> None:
    assert not accepted(value)
    assert not VALIDATOR.is_valid(value)


def test_the_schema_is_one_and_names_every_field() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert sorted(SCHEMA["properties"]) == FIELDS
    required = {
        name for name, each in Manifest.__dataclass_fields__.items() if each.init
        if each.default is each.default_factory is not None and name != "svf_version"
    }  # fmt: skip
    assert set(SCHEMA["required"]) == required | {"svf_version"}


@given(good, plain)
def test_what_is_kept_and_what_is_signed_are_canonical_whatever_was_asked_before(
    manifest: Manifest, grant: str
) -> None:
    for each in (manifest, manifest.with_grant(grant), Manifest.from_json(manifest.to_json())):
        value = each.to_json()
        assert each.stored_bytes() == canonical_json(value)
        del value["grant"]
        assert each.signed_bytes() == canonical_json(value)
    assert replace(manifest, domain="other").signed_bytes() != manifest.signed_bytes() or manifest.domain == "other"


def test_a_value_that_is_equal_but_written_otherwise_is_not_taken_for_what_was_written() -> None:
    for mutable in ({"params": {"x": 1}}, {"artifacts": ({"size": 1},)}):
        manifest = replace(GOOD, **{"artifacts": (), "params": {}, **mutable})
        assert manifest.stored_bytes() == canonical_json(manifest.to_json())
        for held in (manifest.params, *manifest.artifacts):
            for name in held:
                held[name] = True  # type: ignore[index] # as above
        assert b"true" in manifest.signed_bytes()


def test_a_grant_covers_every_field_but_itself(tmp_path) -> None:
    assert VERIFIER.valid(GOOD)
    for changed in (
        replace(GOOD, owner="other"), replace(GOOD, level="EXECUTE"), replace(GOOD, rehearsal=True),
        replace(GOOD, params={"x": "z"}), replace(GOOD, approval="me"), replace(GOOD, grant=""),
    ):  # fmt: skip
        assert not VERIFIER.valid(changed)
    assert SIGNER.sign(replace(GOOD, grant="")) == GOOD


def test_what_is_changed_after_it_was_read_is_not_what_was_signed() -> None:
    given_out = SIGNER.sign(replace(GOOD, artifacts=()))
    read = Manifest.from_json(json.loads(canonical_json(given_out.to_json())))
    assert read == given_out
    assert VERIFIER.valid(read)
    read.params["x"] = "z"  # type: ignore[index] # that it is a dict is nothing to rely on
    assert not VERIFIER.valid(read)


def test_without_a_readable_key_nothing_is_signed_and_nothing_is_valid(tmp_path) -> None:
    (tmp_path / "junk").write_text("no key")
    for path in (tmp_path / "absent", tmp_path / "junk", tmp_path):
        with pytest.raises(Unavailable, match=r"grant key .* can't be read"):
            Verifier.load(path).valid(GOOD)
        with pytest.raises(BadSignature):
            Signer.load(path)


@given(anything)
def test_reading_an_ack_raises_nothing_but_invalid_input(value: object) -> None:
    with contextlib.suppress(InvalidInput):
        Ack.from_json(value)
