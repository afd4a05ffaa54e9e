import json
import logging as stdlib_logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from chassis import logging


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    root = stdlib_logging.getLogger()
    before, level = root.handlers[:], root.level
    for handler in before:
        root.removeHandler(handler)
    file = tmp_path / "logs" / "memory.log"
    logging.configure("memory", "info", "auto", file)
    yield file
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_each_line_is_json_with_time_service_and_level(log_file: Path) -> None:
    structlog.get_logger("services.memory.store").info("opened", rows=3)
    stdlib_logging.getLogger("some.library").warning("took %d s", 4)
    structlog.get_logger("x").debug("too quiet")
    ours, theirs = lines(log_file)
    assert (ours["event"], ours["rows"], ours["service"], ours["level"]) == ("opened", 3, "memory", "info")
    assert str(ours["at"]).endswith("Z")
    assert (theirs["event"], theirs["service"], theirs["level"]) == ("took 4 s", "memory", "warning")


def test_secrets_do_not_reach_the_file(log_file: Path) -> None:
    log = structlog.get_logger("x")
    log.info("called", token="t0p-s3cret", headers={"Authorization": "Bearer t0p-s3cret"}, who="cbo")
    log.info("sent authorization: Bearer t0p-s3cret to http://127.0.0.1/login?token=t0p-s3cret&x=1")
    try:
        raise RuntimeError("Bearer t0p-s3cret")
    except RuntimeError:
        log.exception("failed")
    assert "t0p-s3cret" not in log_file.read_text()
    assert lines(log_file)[0]["who"] == "cbo"


def test_a_rotated_file_is_reopened(log_file: Path) -> None:
    log = structlog.get_logger("x")
    log.info("before")
    log_file.rename(log_file.with_suffix(".1"))
    log.info("after")
    assert [line["event"] for line in lines(log_file)] == ["after"]
