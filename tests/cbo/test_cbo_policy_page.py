"""docs/specs/policy.md: its examples are policies, and every key is on the page."""

import re
from pathlib import Path

import pytest

from chassis.policy_yaml import KEYS, SHIPPED, parse

PAGE = (Path(__file__).parents[2] / "docs" / "specs" / "policy.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("n", range(len(EXAMPLES)))
def test_every_example_on_the_page_is_a_policy(n: int) -> None:
    found = parse(EXAMPLES[n].encode())
    assert found.policy is not None, found.why
    assert found.policy.rules


def test_the_first_example_is_the_shipped_policy() -> None:
    first, shipped = parse(EXAMPLES[0].encode()).policy, parse(SHIPPED.read_bytes()).policy
    assert first is not None and shipped is not None
    assert [(each.name, each.allow, each.manifest) for each in first.rules] == [
        (each.name, each.allow, each.manifest) for each in shipped.rules
    ]


def test_every_key_is_explained() -> None:
    assert len(EXAMPLES) == 2
    for keys in KEYS.values():
        for key in keys:
            assert f"`{key}`" in PAGE, key
