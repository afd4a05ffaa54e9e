"""Confinement by Landlock: a process may read what it is let, write below a few folders, and never gets it back.

Standard library only: it runs in the child before the command does. No Landlock (an old kernel, switched off at
boot) is no error here: `abi()` is 0 then, and whoever starts the process says that it is unconfined.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The same numbers on every architecture (Linux 5.13 and later)."""
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH, _PR_SET_NO_NEW_PRIVS = 1, 1, 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (
    1 << bit for bit in range(4, 13)
)
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_SINCE = ((1, (1 << 13) - 1), (2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))
"""ABI version → the file accesses that it brought. What an older kernel doesn't know is not restricted by it."""
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS, _SCOPES_SINCE = 1, 2, 6

READ = EXECUTE | READ_FILE | READ_DIR
CHANGE = (
    READ | WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO | _MAKE_SYM
    | _REFER | _TRUNCATE
)  # fmt: skip
"""Everything below a declared path but making device files."""
USE = READ_FILE | WRITE_FILE | _IOCTL_DEV
"""A device: read, write, ioctl."""
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV
"""What a rule on something that is not a folder may hold."""

DEVICES = tuple(Path("/dev") / name for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts"))

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """What a confined process may do with files. Everything that is not said is refused."""

    writable: tuple[Path, ...]
    """Folders (and single files) that it may change; real paths."""
    hidden: tuple[Path, ...] = ()
    """Folders whose files it may not read, although all the rest of the machine is readable to it."""
    covered: bool = False
    """The hidden folders are covered by empty mounts already, so that not even their names are seen."""


def abi() -> int:
    """The kernel's Landlock version; 0 where there is none."""
    version = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))
    return max(0, int(version))


def rules(fence: Fence) -> list[tuple[Path, int]]:
    """Path → accesses beneath it.

    Landlock only ever allows, a folder with all that is below it. So a hidden folder is left out by allowing
    its neighbours, at each level from the root down, instead of the root. Names (not contents) stay listable
    everywhere, else `ls` would fail in each folder above it; what is made later beside an ancestor is not readable.
    """
    found = [(path, CHANGE) for path in fence.writable]
    found += [(path, USE) for path in DEVICES]
    if fence.covered or not fence.hidden:
        return [(Path("/"), READ), *found]
    return [(Path("/"), READ_DIR), *((path, READ) for path in _beside(Path("/"), fence.hidden)), *found]


def _beside(folder: Path, hidden: Sequence[Path]) -> Iterator[Path]:
    """Everything below `folder` but the hidden folders, named by as few paths as will do."""
    try:
        entries = sorted(os.scandir(folder), key=lambda each: each.name)
    except OSError:
        return  # what can't be listed by us is not readable to the child either
    for entry in entries:
        path = Path(entry.path)
        if entry.is_symlink() or path in hidden:
            continue  # a link gives nothing that its target doesn't
        if any(each.is_relative_to(path) for each in hidden):
            yield from _beside(path, hidden)
        else:
            yield path


def restrict(fence: Fence) -> int:
    """Confine this process and all that it will start, for good. Returns the ABI version it is confined under.

    0: nothing was confined. Raises OSError when the kernel has Landlock and refuses.
    """
    version = abi()
    if version == 0:
        return 0
    handled = 0
    for since, accesses in _SINCE:
        handled |= accesses if version >= since else 0
    scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if version >= _SCOPES_SINCE else 0
    attributes = struct.pack("=QQQ", handled, 0, scopes)
    size = len(attributes) if version >= _SCOPES_SINCE else 8
    ruleset = _checked(_libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0)))
    try:
        for path, accesses in rules(fence):
            _allow(ruleset, path, accesses & handled)
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: Path, accesses: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # gone, or not ours to see: then it is not allowed
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            accesses &= _OF_FILES
        rule, kind = struct.pack("=Qi", accesses, fd), ctypes.c_int(_RULE_PATH_BENEATH)
        if accesses:
            _checked(_libc.syscall(_ADD_RULE, ctypes.c_int(ruleset), kind, rule, ctypes.c_uint32(0)))
    finally:
        os.close(fd)


def _checked(answer: int) -> int:
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return answer


def overlaps(path: Path, folders: Iterable[Path]) -> bool:
    """Whether a path is inside one of the folders, or around it."""
    return any(path.is_relative_to(each) or each.is_relative_to(path) for each in folders)
