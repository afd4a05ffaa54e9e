"""A command loads what it needs, no more."""

import subprocess
import sys

import pytest
import typer

from cli.main import NOUNS, build


@pytest.mark.parametrize("module", NOUNS)
def test_a_module_registers_what_the_table_says(module: str) -> None:
    app = typer.Typer()
    __import__(f"cli.{module}", fromlist=["register"]).register(app)
    found = {each.name for each in app.registered_commands} | {each.name for each in app.registered_groups}
    assert found == set(NOUNS[module])


def test_an_unknown_word_meets_the_whole_command_line() -> None:
    known = {each.name for each in build("taks").registered_groups}
    assert {"task", "ladder", "memory"} <= known


def test_listing_tasks_loads_neither_settings_nor_logging_nor_keys() -> None:
    heavy = "pydantic structlog cryptography yaml chassis.domains cli.domains"
    code = (
        "import sys; from cli.main import build; build('task')\n"
        "import chassis.rpc.client, calyx.cbo.v1.cbo_pb2_grpc\n"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
