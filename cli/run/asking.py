"""Asking the person at the terminal, without touching what the command will read: from /dev/tty, on stderr."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cli.output import note


def say(words: str) -> None:
    """Our own words, in one line."""
    note(f"calyx run: {' '.join(words.split())}")


def at_terminal() -> bool:
    """Whether somebody can be asked: the terminal is ours to read now, and what we say is seen."""
    if not sys.stderr.isatty():
        return False
    try:
        with _terminal() as fd:
            return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


def yes(question: str) -> bool:
    """No is the answer to anything but y or yes. Raises KeyboardInterrupt on Ctrl-C."""
    note(question)
    print("[y/N] ", end="", file=sys.stderr, flush=True)
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        with _terminal() as fd:
            answer = os.read(fd, 1024).decode(errors="replace")
    except OSError:
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return answer.strip().lower() in ("y", "yes")


@contextmanager
def give_back() -> Iterator[None]:
    """The terminal's foreground is ours again afterwards, whatever an interactive command made of it."""
    try:
        with _terminal() as fd:
            before = os.tcgetpgrp(fd)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            with _terminal() as fd:
                if os.tcgetpgrp(fd) != before and before == os.getpgrp():
                    os.tcsetpgrp(fd, before)
        except OSError:
            pass  # the terminal has gone
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)


@contextmanager
def _terminal() -> Iterator[int]:
    fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
