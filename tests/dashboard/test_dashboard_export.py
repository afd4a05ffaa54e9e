"""The diagnostics zip: useful, bounded, and without a secret."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from dashboard_fakes import bench
from dashboard_scenes import busy
from hypothesis import given
from hypothesis import strategies as st

from chassis.clock import VirtualClock
from services.dashboard.export import TAIL_BYTES
from services.dashboard.redaction import redact

PLANTED = {
    "bearer": "authorization: Bearer Zx81-abcdef_ghijkl.mnop",
    "keyed": "starting with api_key=K9d8f7s6d5f4 and password: hunter22hunter",
    "json": '{"event":"login","token":"T0ken-value-zzz","port":1}',
    "escaped": '{"detail":"{\\"secret\\": \\"S3cr3t-inner-zzz\\", \\"n\\": 1}"}',
    "url": "cloning https://bob:Passw0rd-zzz@git.example/x.git",
    "github": "ghp_" + "a1B2" * 9,
    "openai": "sk-" + "q" * 30,
    "aws": "AKIA" + "ABCD" * 4,
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.abcdefgh",
    "link": "http://127.0.0.1:4040/login?token=login-0123456789abcdef0123456789abcdef",
    "pem": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAA\n-----END OPENSSH PRIVATE KEY-----",
    "cookie": "Cookie: calyx_x=v1.123.n-abc",
    "plain": "operator says xK3-known-operator-token",
}
NEEDLES = (
    "Zx81-abcdef", "K9d8f7s6d5f4", "hunter22", "T0ken-value", "S3cr3t-inner", "Passw0rd-zzz", "ghp_a1B2", "sk-qqqq",
    "AKIAABCD", "eyJhbGci", "login-0123", "b3BlbnNz", "v1.123", "xK3-known", "env-s3cret", "pulse-s3cret",
)  # fmt: skip


def contents(archive: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(archive)) as zipped:
        assert zipped.testzip() is None
        return {name: zipped.read(name).decode() for name in zipped.namelist()}


@pytest.fixture
def made(tmp_path: Path) -> Any:
    made = bench(
        tmp_path / "station",
        busy(VirtualClock()),
        environment={"CALYX_CBO_TOKEN": "env-s3cret-1", "CALYX_LOG_LEVEL": "info", "HOME": "/home/somebody"},
        known_secrets=("xK3-known-operator-token",),
    )
    made.layout.logs.mkdir()
    day = made.layout.pulses / "20260101"
    day.mkdir(parents=True)
    for n in range(60):
        (day / f"bp-{n:09d}.json").write_text(json.dumps({"id": n, "inputs": {"password": "pulse-s3cret"}}))
    return made


def test_planted_secrets_are_gone_and_what_is_around_them_is_there(made: Any) -> None:
    (made.layout.logs / "cbo.log").write_text(
        "\n".join(f"{name} {text}" for name, text in PLANTED.items()) + "\nthe end\n"
    )
    files = contents(made.at.desk.export({"overview": 1}, "test").archive)
    whole = "\n".join(files.values())
    for needle in NEEDLES:
        assert needle not in whole, needle
    log = files["logs/cbo.log"]
    assert log.endswith("the end\n")
    assert "cloning https://bob:" in log
    assert json.loads(files["config/environment.json"]) == {"CALYX_CBO_TOKEN": "[redacted]", "CALYX_LOG_LEVEL": "info"}
    assert "/home/somebody" not in whole


def test_it_holds_the_last_fifty_pulses_and_they_are_still_json(made: Any) -> None:
    files = contents(made.at.desk.export({}, "test").archive)
    pulses = sorted(name for name in files if name.startswith("pulses/"))
    assert len(pulses) == 50
    assert pulses[-1] == "pulses/bp-000000059.json"
    assert json.loads(files[pulses[-1]]) == {"id": 59, "inputs": {"password": "[redacted]"}}
    for name in ("versions.json", "kpis.json", "ladder.json", "tasks.json", "incidents.json", "overview.json"):
        assert json.loads(files[name]) is not None, name


def test_a_long_log_keeps_its_end_from_a_lines_beginning(made: Any) -> None:
    line = "x" * 99 + "\n"
    (made.layout.logs / "cbo.log").write_text(line * 30000 + "last line\n")
    files = contents(made.at.desk.export({}, "test").archive)
    assert len(files["logs/cbo.log"]) <= TAIL_BYTES
    assert files["logs/cbo.log"].startswith("x" * 99 + "\n")
    assert files["logs/cbo.log"].endswith("last line\n")
    assert [each["name"] for each in json.loads(files["MANIFEST.json"])["left_out"]] == ["logs/cbo.log"]


def test_links_and_special_files_are_not_followed(made: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("not for export")
    (made.layout.logs / "link.log").symlink_to(outside)
    os.mkfifo(made.layout.logs / "pipe.log")
    files = contents(made.at.desk.export({}, "test").archive)
    assert "not for export" not in "\n".join(files.values())
    assert "logs/link.log" in {each["name"] for each in json.loads(files["MANIFEST.json"])["left_out"]}


def test_with_every_service_down_it_still_holds_the_files_and_says_what_is_missing(made: Any) -> None:
    (made.layout.logs / "cbo.log").write_text("a line\n")
    made.station.down.update(("cbo", "guardian"))
    files = contents(made.at.desk.export({}, "test").archive)
    assert files["logs/cbo.log"] == "a line\n"
    left_out = {each["name"]: each["why"] for each in json.loads(files["MANIFEST.json"])["left_out"]}
    assert left_out["kpis.json"] == "connection refused"


@given(st.text(alphabet="abcdefXYZ0123456789-_", min_size=8, max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_a_known_secret_is_gone_from_any_text(secret: str, before: str, after: str) -> None:
    assert secret not in redact(f"{before}{secret}{after}", [secret]).replace("[redacted]", "\0")


@given(
    st.sampled_from(["token", "api_key", "password", "db_secret", "aws-access-key"]),
    st.one_of(st.text(max_size=30), st.integers(), st.booleans(), st.none()),
    st.dictionaries(st.sampled_from(["id", "state", "count"]), st.integers()),
)
def test_redacted_json_is_still_json(name: str, value: Any, rest: dict[str, int]) -> None:
    found = json.loads(redact(json.dumps({name: value, **rest})))
    assert found.pop(name) in ("[redacted]", "")
    assert found == rest


def test_a_line_of_two_mebibytes_is_read_in_one_pass() -> None:
    line = "token" * (TAIL_BYTES // 5)
    assert redact(line) == line


def test_ordinary_lines_stay_as_they_are() -> None:
    for line in (
        '{"at":"2026-01-01T00:00:00Z","event":"serving","port":50051,"version":"0.1.0"}',
        "rotated governor.log: 5242880 bytes to 311296",
        '{"hash":"' + "0a" * 32 + '","prev":"' + "1b" * 32 + '"}',
    ):
        assert redact(line) == line
