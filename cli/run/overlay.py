"""The world of a rehearsal, from the inside: namespaces without a network, the declared folders as layers over the
real ones, and everything else read-only.

Standard library only: it runs between `calyx run` and the command. All of it raises OSError; nothing has been started
then, and whoever asked says `cannot rehearse`.
"""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_NEWUSER, _NEWPID, _NEWNET, _NEWIPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000
_MS_BIND = 4096
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _RDONLY = 442, -100, 0x8000, 1
_PR_CAPBSET_DROP = 24
_KEPT = frozenset(range(9)) | {9, 27, 31}
"""The capabilities of files and ids: the first nine, LINUX_IMMUTABLE, MKNOD (which a user namespace empties), SETFCAP.
Never SYS_ADMIN, with which root in the namespace could mount its way out of the read-only world."""
_LAST_CAPABILITY = 63

_libc = ctypes.CDLL(None, use_errno=True)


def leave() -> None:
    """Leave the user's, the network's and the message queues' namespaces; the next child has its own processes too."""
    root = os.geteuid() == 0
    with _mapped_by_a_helper() if root else contextlib.nullcontext():
        uid, gid = os.geteuid(), os.getegid()
        _checked(_libc.unshare(_NEWUSER | _NEWPID | _NEWNET | _NEWIPC), "namespaces")
        if not root:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


@contextlib.contextmanager
def _mapped_by_a_helper() -> Iterator[None]:
    """Root keeps every id that it has here; that can be granted only by a process that stayed outside."""
    ours = {name: Path("/proc/self", name).read_text().splitlines() for name in ("uid_map", "gid_map")}
    pid, (go, start) = os.getpid(), os.pipe()
    helper = os.fork()
    if helper == 0:
        status = 1
        with contextlib.suppress(OSError):
            os.close(start)
            if os.read(go, 1):
                for name, lines in ours.items():
                    ranges = [line.split() for line in lines]
                    Path(f"/proc/{pid}", name).write_text("".join(f"{a} {a} {n}\n" for a, _, n in ranges))
                status = 0
        os._exit(status)
    os.close(go)
    try:
        yield
        os.write(start, b"1")
    finally:
        os.close(start)
        failed = os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]) != 0
    if failed:
        raise PermissionError(1, "the ids of a user namespace could not be set")


def sockets() -> list[str]:
    """Every socket with a name in the file system: a network namespace does not hide those."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/unix").read_text(errors="surrogateescape").splitlines()[1:]
        return sorted({part[7] for line in lines if len(part := line.split(None, 7)) == 8 and part[7].startswith("/")})
    return []


def furnish(layers: Sequence[Mapping[str, Any]], scratch: str) -> None:
    """Mount each layer over its real folder. In a mount namespace of our own, before the state folder is covered."""
    for layer in layers:
        real = os.fsencode(layer["real"])
        if layer["work"]:
            # By descriptors: a path may hold the characters that part the options.
            opened = [os.open(layer[name], os.O_PATH | os.O_DIRECTORY) for name in ("real", "upper", "work")]
            lower, upper, work = (f"/proc/self/fd/{fd}" for fd in opened)
            options = f"userxattr,lowerdir={lower},upperdir={upper},workdir={work}".encode()
            try:
                _checked(_libc.mount(b"overlay", real, b"overlay", 0, options), f"overlay on {layer['real']}")
            finally:
                for fd in opened:
                    os.close(fd)
        else:
            _checked(_libc.mount(os.fsencode(layer["upper"]), real, None, _MS_BIND, None), f"copy on {layer['real']}")
    _checked(_libc.mount(os.fsencode(scratch), os.fsencode(scratch), None, _MS_BIND, None), "scratch")


def seal(layers: Sequence[Mapping[str, Any]], scratch: str, known: Sequence[str]) -> None:
    """Nothing but the layers and the scratch folder can be written to, and no daemon's socket be reached."""
    for each in known:
        _libc.mount(b"/dev/null", os.fsencode(each), None, _MS_BIND, None)  # gone, or not ours to see
    _attributes("/", _AT_RECURSIVE, _RDONLY, 0)
    for each in (*(layer["real"] for layer in layers), scratch):
        _attributes(each, 0, 0, _RDONLY)


def drop_capabilities() -> None:
    """What is not needed to work with files. Before the command is executed, which is when it takes effect."""
    for each in range(_LAST_CAPABILITY + 1):
        if each not in _KEPT:
            _libc.prctl(_PR_CAPBSET_DROP, each, 0, 0, 0)  # those that this kernel doesn't know are no loss


def _attributes(path: str, flags: int, given: int, taken: int) -> None:
    wanted = struct.pack("=QQQQ", given, taken, 0, 0)
    args = (ctypes.c_int(_AT_FDCWD), os.fsencode(path), ctypes.c_uint(flags), wanted, ctypes.c_size_t(len(wanted)))
    _checked(_libc.syscall(_MOUNT_SETATTR, *args), f"read-only {path}")


def _checked(answer: int, what: str) -> None:
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
