"""A disk with room for `room` bytes per file, made by the kernel's own limit: writes beyond it fail or are cut."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def full_disk(room: int = 0) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with structlog.testing.capture_logs():  # pytest's own capture is a file, too
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
