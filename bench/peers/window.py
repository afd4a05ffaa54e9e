"""The one measure: from the first submit until every task is done and acknowledged, with at most so many outstanding.

A worker says over a Unix datagram socket which task has ended, the same way for every system.
"""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ENDS = "BENCH_ENDS"
PAYLOAD = "x" * 512
"""What each task carries, in characters (0.5 KiB)."""
PATIENCE_SECONDS = 60.0

_out: dict[int, socket.socket] = {}


def tell(number: int) -> None:
    """From a worker: this task has ended (and is acknowledged, where the system lets a worker know that)."""
    out = _out.get(os.getpid())
    if out is None:  # the first of this process; a forked one must not share its parent's
        out = _out[os.getpid()] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        out.connect(os.environ[ENDS])
    out.send(number.to_bytes(4, "big"))


@contextlib.contextmanager
def ends(folder: Path) -> Iterator[socket.socket]:
    """Where the ends are told; its address is in the environment of what is started inside."""
    path = folder / "ends.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(path))
        told.settimeout(PATIENCE_SECONDS)
        os.environ[ENDS] = str(path)
        yield told


@contextlib.contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours, ended by its id."""
    with log.open("ab") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **environment})
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def measure(
    told: socket.socket,
    submit: Callable[[int], object],
    settled: Callable[[], bool],
    *,
    tasks: int,
    in_flight: int,
    submitters: int,
    warm: int = 32,
) -> float:
    """Tasks a second. `warm` tasks go first, so that connections are open and workers are up."""
    _round(told, submit, range(warm), in_flight, submitters)
    _until(settled)
    began = time.perf_counter()
    _round(told, submit, range(warm, warm + tasks), in_flight, submitters)
    _until(settled)
    return tasks / (time.perf_counter() - began)


def _round(
    told: socket.socket, submit: Callable[[int], object], numbers: range, in_flight: int, submitters: int
) -> None:
    room, turn, lock = threading.Semaphore(in_flight), iter(numbers), threading.Lock()
    failures: list[BaseException] = []

    def hand_in() -> None:
        try:
            while room.acquire(timeout=PATIENCE_SECONDS):
                with lock:
                    number = next(turn, None)
                if number is None:
                    room.release()
                    return
                submit(number)
        except BaseException as error:
            failures.append(error)
            raise

    crew = [threading.Thread(target=hand_in, daemon=True) for _ in range(submitters)]
    for each in crew:
        each.start()
    missing = set(numbers)
    while missing and not failures:
        missing.discard(int.from_bytes(told.recv(4), "big"))
        room.release()
    for each in crew:
        each.join()
    if failures:
        raise failures[0]


def _until(settled: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not settled():
        if time.monotonic() > give_up:
            raise TimeoutError("not everything was acknowledged")
