"""What others wrote reaches the terminal as text, never as commands to it."""

import json

import pytest

from cli.output import emit, note, say, shown

EVIL = "\x1b]0;owned\x07 \x1b[31m \x9b31m \x7f \u202egpj.exe"
STEERING = set("\x1b\x07\x9b\x7f\u202e")


def test_no_word_or_note_carries_an_escape(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"line\n{EVIL}")
    note(f"calyx: there is no task {EVIL}")
    said = capsys.readouterr()
    assert not STEERING & set(said.out + said.err + shown(EVIL))
    assert "owned" in said.out and "owned" in said.err


def test_json_carries_it_escaped_and_word_for_word(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"text": EVIL}, True, lambda _: None)
    said = capsys.readouterr().out
    assert not STEERING & set(said)
    assert json.loads(said) == {"text": EVIL}
