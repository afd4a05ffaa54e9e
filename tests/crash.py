"""A process that is gone at one point: planted before or after the n-th call of a primitive."""

import pytest


class Crash(BaseException):
    """The process is gone at this point."""


def crash_in(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, at: int) -> None:
    """Crash right before, or (odd `at`) right after, the n-th call of a primitive."""
    real, calls = getattr(owner, name), iter(range(10_000))

    def crashing(*args, **kwargs):
        call = next(calls)
        if call == at // 2 and at % 2 == 0:
            raise Crash
        result = real(*args, **kwargs)
        if call == at // 2:
            raise Crash
        return result

    monkeypatch.setattr(owner, name, crashing)
