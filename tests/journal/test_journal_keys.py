"""One key of a JSON or TOML file: changed, undone by itself, refused where that can't be promised."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.clock import VirtualClock
from chassis.errors import CalyxError, Drifted, InvalidInput, Refused
from chassis.journal import Journal, Session, consent_within
from chassis.journal.documents import MAX_BYTES, MAX_VALUE, Document

TOML = """# the top
title = "x"  # why
hex = 0x1F

[server]   # here
  port = 8_080   # keep
  # hosts, in order
  hosts = [
    "a",  # first
  ]
  last = 'literal'
[server.inner]
z = 1979-05-27T07:32:00Z
[[many]]
n = 1
[empty]
"""


class Crash(BaseException):
    """The process is gone at this point."""


class Yard:
    def __init__(self, root: Path) -> None:
        self.root, self.data, self.left = root, root / "data", 10**9
        self.steps: list[str] = []
        self.data.mkdir()

    @property
    def journal(self) -> Journal:
        return Journal(self.root / "journal", VirtualClock(), consent_within([self.data]), self._at)

    def _at(self, step: str) -> None:
        self.steps.append(step)
        self.left -= 1
        if self.left < 0:
            raise Crash(step)

    def file(self, name: str, text: str) -> Path:
        path = self.data / name
        path.write_bytes(text.encode())
        path.chmod(0o640)
        os.utime(path, ns=(10**18, 10**18))
        return path

    def do(self, what: Callable[[Session], None], task: str = "t1") -> None:
        with self.journal.session(task, 1, lambda: None) as effects:
            what(effects)
            effects.finish({})

    def look(self) -> dict[str, tuple[bytes, int, int]]:
        return {
            str(path.relative_to(self.data)): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
            for path in sorted(self.data.rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


LAYOUTS = [
    '{"a":1,"b":{"c":2,"d":[]}}',
    '{"a": 1, "b": {"c": 2, "d": []}}\n',
    '{\n  "a": 1,\n  "b": {\n    "c": 2,\n    "d": []\n  }\n}\n',
    '{\n\t"a" : 1,\n\t"b" : {\n\t\t"c" : 2,\n\t\t"d" : []\n\t}\n}',
    '{\r\n    "a": 1.0,\r\n    "b": {"c": 2e0, "d": []}\r\n}\r\n',
    '{ "b": {"c" :2, "d":[ ] }, "a": 1 }',
]


@pytest.mark.parametrize("text", LAYOUTS)
def test_a_key_is_changed_in_the_files_own_layout_and_comes_back_to_the_byte(yard: Yard, text: str) -> None:
    path = yard.file("conf.json", text)
    before = yard.look()

    def change(effects: Session) -> None:
        effects.set_key(path, ("a",), {"x": [True, None]})
        effects.set_key(path, ("b", "new"), "tëxt")
        effects.drop_key(path, ("b", "c"))
        effects.set_key(path, ("b", "new"), 5)

    yard.do(change)
    made = path.read_bytes().decode()
    assert json.loads(made) == {"a": {"x": [True, None]}, "b": {"d": [], "new": 5}}
    for mark in ("\n", "\t", "\r\n", '"a" : '):
        assert (mark in made) == (mark in text)
    assert made.endswith("\n") == text.endswith("\n")
    assert path.stat().st_mode & 0o777 == 0o640
    shown = yard.journal.status("t1").changes
    assert [(each["op"], each["keys"]) for each in shown] == [
        ("set_key", ["a"]), ("set_key", ["b.new"]), ("drop_key", ["b.c"]), ("set_key", ["b.new"]),
    ]  # fmt: skip
    assert len(yard.journal.undo("t1", dry_run=True).steps) == 4
    yard.journal.undo("t1")
    assert yard.look() == before


def test_comments_and_layout_of_a_toml_file_stay(yard: Yard) -> None:
    path = yard.file("conf.toml", TOML)
    before = yard.look()

    def change(effects: Session) -> None:
        effects.set_key(path, ("title",), "y")
        effects.set_key(path, ("server", "port"), 9090)
        effects.set_key(path, ("server", "more"), [1, 2])
        effects.drop_key(path, ("server", "hosts"))
        effects.set_key(path, ("empty", "k"), 1.5)

    yard.do(change)
    made = TOML.replace('"x"', '"y"').replace("8_080", "9090").replace('  hosts = [\n    "a",  # first\n  ]\n', "")
    made = made.replace("  last = 'literal'\n", "  last = 'literal'\n  more = [1, 2]\n") + "k = 1.5\n"
    assert path.read_text() == made
    yard.journal.undo("t1")
    assert yard.look() == before


def test_what_others_changed_in_the_same_file_since_survives_an_undo_and_the_undo_of_it(yard: Yard) -> None:
    path, other = yard.file("conf.json", '{\n  "a": 1,\n  "b": 2\n}\n'), yard.file("conf.toml", TOML)

    def change(effects: Session) -> None:
        effects.set_key(path, ("a",), "ours")
        effects.drop_key(path, ("b",))
        effects.set_key(other, ("server", "port"), 1)
        effects.drop_key(other, ("server", "last"))

    yard.do(change)
    path.write_text('{"theirs": [1], "a": "ours"}')
    other.write_text(other.read_text().replace('title = "x"', 'title = "theirs"'))
    yard.journal.undo("t1", by="u1")
    assert path.read_text() == '{"theirs": [1], "a": 1, "b": 2}'
    assert other.read_text() == TOML.replace('title = "x"', 'title = "theirs"')
    path.write_text('{"theirs": [2], "a": 1, "b": 2}')
    yard.journal.undo("u1", by="u2")
    assert path.read_text() == '{"theirs": [2], "a": "ours"}'
    assert "port = 1 " in other.read_text() and "last" not in other.read_text()
    yard.journal.undo("u2")
    assert json.loads(path.read_text()) == {"theirs": [2], "a": 1, "b": 2}


@pytest.mark.parametrize("order", [("t1", "t2"), ("t2", "t1")])
def test_two_tasks_that_changed_two_keys_are_undone_in_any_order(yard: Yard, order: tuple[str, str]) -> None:
    path = yard.file("conf.json", '{\n    "a": 1,\n    "b": 2\n}\n')
    yard.do(lambda effects: effects.drop_key(path, ("a",)), "t1")
    yard.do(lambda effects: effects.set_key(path, ("b",), 3), "t2")
    for task in order:
        yard.journal.undo(task)
    assert path.read_text() == '{\n    "a": 1,\n    "b": 2\n}\n'


@pytest.mark.parametrize(
    "theirs", ['{"a": 3, "b": 2}', '{"b": 2}', '{"a": 2.0, "b": 2}', "no json", '{"a": 2, "a": 2}', '["a"]', None]
)
def test_drift_of_the_same_key_is_refused_and_nothing_touched(yard: Yard, theirs: str | None) -> None:
    path = yard.file("conf.json", '{"a": 1, "b": 2}')
    yard.do(lambda effects: effects.set_key(path, ("a",), 2))
    path.unlink()
    if theirs is not None:
        path.write_text(theirs)
    before = yard.look()
    for dry_run in (True, False):
        with pytest.raises(Drifted, match="nothing was touched"):
            yard.journal.undo("t1", dry_run=dry_run)
    assert yard.look() == before


def test_keys_and_whole_files_are_changed_in_one_task_and_come_back(yard: Yard) -> None:
    path = yard.file("conf.json", '{"a": 1}')
    before = yard.look()

    def change(effects: Session) -> None:
        effects.set_key(path, ("a",), 2)
        made = yard.root / "made"
        made.write_text('{"whole": {}}')
        effects.replace(path, made)
        effects.set_key(path, ("whole", "x"), 3)
        effects.remove(path)

    yard.do(change)
    yard.journal.undo("t1", by="u1")
    assert yard.look() == before
    yard.journal.undo("u1", by="u2")
    assert not path.exists()
    yard.journal.undo("u2")
    assert yard.look() == before


def test_a_whole_file_is_not_put_back_over_what_others_changed_before_a_key_of_it(yard: Yard) -> None:
    path = yard.file("conf.json", '{"a": 1}')

    def change(effects: Session) -> None:
        made = yard.root / "made"
        made.write_text('{"a": 2}')
        effects.replace(path, made)
        effects.set_key(path, ("a",), 3)

    yard.do(change)
    path.write_text('{"a": 3, "theirs": 1}')
    with pytest.raises(Drifted):
        yard.journal.undo("t1")
    assert path.read_text() == '{"a": 3, "theirs": 1}'


def _many(effects: Session, yard: Yard) -> None:
    effects.set_key(yard.data / "conf.json", ("a",), 2)
    effects.drop_key(yard.data / "conf.json", ("b",))
    effects.set_key(yard.data / "conf.toml", ("server", "port"), 1)


def test_killed_at_every_step_it_is_there_or_not_and_comes_back_to_the_byte(tmp_path: Path) -> None:
    at = 0
    while True:
        root = tmp_path / str(at)
        root.mkdir()
        yard = Yard(root)
        yard.file("conf.json", LAYOUTS[2]), yard.file("conf.toml", TOML)
        before, yard.left = yard.look(), at
        try:
            yard.do(lambda effects, yard=yard: _many(effects, yard))
            yard.journal.undo("t1")
            done = True
        except Crash:
            done = False
        yard.left = 10**9
        yard.journal.recover()
        assert yard.journal.recover() == []
        if yard.journal.can_undo("t1")[0]:
            yard.journal.undo("t1")
        assert yard.look() == before, yard.steps
        if done:
            break
        at += 1
    assert at > 25


def _deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    ("name", "text", "key", "value", "why"),
    [
        ("c.json", "{", ("a",), 1, "no JSON"),
        ("c.json", '{"a": 1, "x": {"k": 1, "k": 2}}', ("a",), 1, "there twice"),
        ("c.json", '{"a": NaN}', ("a",), 1, "no number"),
        ("c.json", "[1]", ("a",), 1, "no object"),
        ("c.json", "\ufeff{}", ("a",), 1, "no JSON"),
        ("c.json", _deep(50_000), ("a",), 1, "no JSON"),
        ("c.json", '{"a": [{"b": 1}]}', ("a", "0", "b"), 1, "no object a"),
        ("c.json", '{"a": 1}', ("x", "b"), 1, "no object x"),
        ("c.json", '{"a": 1}', ("a",), float("nan"), "can't hold"),
        ("c.json", '{"a": 1}', ("a",), object(), "can't hold"),
        ("c.json", '{"a": 1}', ("a",), "\ud800", "can't hold"),
        ("c.json", '{"a": 1}', (), 1, "names on the way"),
        ("c.json", '{"a": 1}', "a", 1, "names on the way"),
        ("c.json", '{"a": "' + "x" * MAX_VALUE + '"}', ("a",), 1, "are kept by the key"),
        ("c.json", '{"a": 1}', ("a",), "x" * MAX_VALUE, "at most"),
        ("c.toml", "a = 1\na = 2\n", ("a",), 1, "no TOML"),
        ("c.toml", TOML, ("server",), 1, "can't be changed alone"),
        ("c.toml", TOML, ("many",), 1, "can't be changed alone"),
        ("c.toml", TOML, ("title",), None, "can't hold"),
        ("c.toml", TOML, ("title",), {"a": 1}, "can't hold"),
        ("c.yaml", "a: 1\n", ("a",), 1, "neither"),
        ("c.json", '{"a": "' + "x" * MAX_BYTES[".json"] + '"}', ("a",), 1, "at most"),
    ],
    ids=lambda each: repr(each)[:16],
)
def test_what_can_not_be_changed_by_the_key_is_refused_before_any_effect(
    yard: Yard, name: str, text: str, key: Any, value: Any, why: str
) -> None:
    path = yard.file(name, text)
    before = yard.look()
    with pytest.raises((Refused, InvalidInput), match=why):
        yard.do(lambda effects: effects.set_key(path, key, value))
    assert yard.look() == before
    assert not yard.journal.can_undo("t1")[0]
    assert yard.journal.recover() == []


@pytest.mark.parametrize(
    "how", ["link", "hard link", "sparse", "absent", "folder", "not UTF-8", "no such key", "secret"]
)
def test_what_is_no_plain_file_of_its_own_is_refused_before_any_effect(yard: Yard, how: str) -> None:
    path, real = yard.data / "c.json", yard.file("real.json", '{"a": 1}')
    if how == "link":
        path.symlink_to(real)
    elif how == "hard link":
        path.hardlink_to(real)
    elif how == "sparse":
        path.touch()
        os.truncate(path, 10 << 30)
    elif how == "folder":
        path.mkdir()
    elif how == "not UTF-8":
        path.write_bytes(b'{"a": "\xff"}')
    elif how == "no such key":
        path.write_text('{"b": 1}')
    elif how == "secret":
        (yard.data / "secrets").mkdir()
        path = yard.file("secrets/c.json", '{"a": 1}')
    with pytest.raises(CalyxError, match=r"nothing was changed|never"):
        yard.do(lambda effects: effects.drop_key(path, ("a",)))
    assert real.read_text() == '{"a": 1}'
    assert not yard.journal.can_undo("t1")[0]


def test_a_key_that_holds_the_value_already_is_no_change(yard: Yard) -> None:
    path = yard.file("c.json", '{"a":1.50}')
    before = yard.look()
    yard.do(lambda effects: effects.set_key(path, ("a",), 1.5))
    assert yard.look() == before
    assert not yard.journal.can_undo("t1")[0]
    yard.do(lambda effects: effects.set_key(path, ("a",), True), "t2")
    yard.do(lambda effects: effects.set_key(path, ("a",), 1), "t3")
    assert path.read_text() == '{"a":1}', "1 is neither 1.5 nor true"


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=4), below, max_size=4),
    max_leaves=12,
)


def _keys(tree: Any, start: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(tree, dict):
        return []
    return [key for name, each in tree.items() for key in ((*start, name), *_keys(each, (*start, name)))]


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.text(max_size=4), TREES, max_size=5), st.sampled_from([None, 0, 1, 4, "\t"]), st.booleans(),
    st.data(),
)  # fmt: skip
def test_whatever_a_json_file_holds_a_key_changes_alone_and_comes_back(
    tree: dict[str, Any], indent: int | str | None, plain: bool, data: st.DataObject
) -> None:
    text = json.dumps(tree, indent=indent, ensure_ascii=plain)
    document = Document(Path("c.json"), text.encode())
    keys = _keys(tree)
    holder = data.draw(st.sampled_from([(), *(key for key in keys if isinstance(_at(tree, key), dict))]))
    new = (*holder, data.draw(st.text(max_size=5)))
    key, value = data.draw(st.sampled_from([*keys, new])), data.draw(TREES)
    was = document.cell(key)
    done = document.put(key, document.made(key, value))
    found = json.loads(done.text)
    assert json.dumps(_at(found, key)) == json.dumps(value)
    assert done.put(key, was).text == text
    if was is not None:
        assert document.put(key, None).put(key, was).text == text


def _at(tree: Any, key: tuple[str, ...]) -> Any:
    for part in key:
        tree = tree[part]
    return tree
