"""The page on port 4040, as a browser on this machine asks for it."""

from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from stack_client import Stack

pytestmark = pytest.mark.stack


def test_the_page_answers(stack: Stack) -> None:
    with urlopen(f"http://127.0.0.1:{stack.port('http')}/", timeout=10) as answer:
        body = answer.read().decode()
        assert answer.status == 200
        assert "default-src" in answer.headers["content-security-policy"]
    assert "Calyx" in body


def test_a_page_asked_for_under_a_foreign_name_is_refused(stack: Stack) -> None:
    request = Request(f"http://127.0.0.1:{stack.port('http')}/", headers={"Host": "calyx.attacker.example"})
    with pytest.raises(HTTPError) as refused:
        urlopen(request, timeout=10)
    assert 400 <= refused.value.code < 500
    refused.value.close()
