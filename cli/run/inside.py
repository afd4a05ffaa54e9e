"""The process between `calyx run` and the command: it shuts the command in, ends all of it, and says how it ended.

It outlives the wrapper on purpose: when the wrapper is gone, however that came, the control socket closes, and this
process ends everything beneath it before it ends itself. Where the kernel allows it, the command runs in a process
namespace of its own, whose end no process in it survives; else this process adopts what detaches itself, and ends it.

Standard library only, one thread. Started by `cli.run.child`, told what to do by one line of JSON.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TextIO

from chassis.confine import Fence, restrict
from cli.run import overlay

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_NEWNS, _NEWUSER, _NEWPID = 0x00020000, 0x10000000, 0x20000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 16384, 1 << 18
_CANT_RUN, _NOT_FOUND = 126, 127
_KILL_ROUNDS = 200

_libc = ctypes.CDLL(None, use_errno=True)


def main(control_fd: int) -> None:
    """Serve one command over the control socket."""
    os.set_inheritable(control_fd, False)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with socket.socket(fileno=control_fd) as control:
        line = control.makefile("rb").readline()
        if line:
            _serve(control, json.loads(line))


def _serve(control: socket.socket, spec: Mapping[str, Any]) -> None:
    _join_cgroup(str(spec["cgroup"]))
    try:
        known = overlay.sockets() if spec["layers"] else []
        apart = _rehearsing() if spec["layers"] else bool(spec["contain"]) and _apart()
    except OSError as error:
        _send(control, {"pid": 0, "failed": _CANT_RUN, "cannot": error.strerror or str(error)})
        return
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        control.close()
        os.close(told)
        if apart:
            _as_init(spec, known, tell)
        _become(spec, tell, covered=False)
    os.close(tell)
    with os.fdopen(told) as words:
        began = json.loads(words.readline() or "{}") if apart else _merged(words)
        _send(control, {"pid": child, "apart": apart, **began})
        status = _watch(control, child)
        _end_all()
        # The first process of a namespace passes on how the command ended, as its last words.
        ended = {"status": status, **(json.loads(words.readline() or "{}") if apart else {})}
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "max_rss_bytes": usage.ru_maxrss * 1024}
    _send(control, {**ended, **spent})


def _watch(control: socket.socket, child: int) -> int:
    """The child's wait status. The wrapper's end is the end of everything beneath."""
    pidfd = os.pidfd_open(child)
    try:
        while True:
            ready, _, _ = select.select([pidfd, control.fileno()], [], [], 1.0)
            _reap(but=child)
            if pidfd in ready:
                return os.waitpid(child, 0)[1]
            if control.fileno() in ready and not control.recv(4096):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                _end_all()
                return int(signal.SIGKILL)
    finally:
        os.close(pidfd)


def _reap(but: int) -> None:
    """Collect adopted processes that have ended, not the child itself."""
    for pid in _children(os.getpid()):
        if pid != but:
            os.waitpid(pid, os.WNOHANG)


def _end_all() -> None:
    """End what is left beneath, also what detached itself."""
    for _ in range(_KILL_ROUNDS):
        left = _children(os.getpid())
        if not left:
            return
        for pid in left:
            os.kill(pid, signal.SIGKILL)  # its own children become ours, and go in the next round
        for pid in left:
            os.waitpid(pid, 0)


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


# --- apart: namespaces ---------------------------------------------------------------------------------------


def _apart() -> bool:
    """The next child is the first process of a namespace of its own; False where that is not allowed."""
    if _libc.unshare(_NEWPID) == 0:
        return True
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(_NEWUSER | _NEWPID) != 0:
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


def _rehearsing() -> bool:
    overlay.leave()
    return True


def _as_init(spec: Mapping[str, Any], known: list[str], tell: int) -> NoReturn:
    """The first process of the namespace: starts the command, collects orphans, and takes all with it at its end."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        covered = _cover([Path(each) for each in spec["hidden"]], spec, known)
    except OSError as error:
        _write(tell, {"failed": _CANT_RUN, "cannot": error.strerror or str(error)})
        os._exit(_CANT_RUN)
    hears, says = os.pipe()
    command = os.fork()
    if command == 0:
        os.close(tell)
        _become(spec, says, covered=covered)
    os.close(says)
    with os.fdopen(hears) as words:
        _write(tell, _merged(words))
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == command:
            _write(tell, {"status": status})
            os._exit(0)


def _cover(hidden: list[Path], spec: Mapping[str, Any], known: list[str]) -> bool:
    """Empty mounts over the hidden folders, and a /proc of the namespace's own; False when a folder stays visible.

    For a rehearsal the layers too, and the rest read-only: there whatever fails is an OSError.
    """
    layers, scratch = spec["layers"], str(spec["scratch"])
    # Unshared here and not before: the supervisor goes on seeing the /proc in which it finds what it has to end.
    if _libc.unshare(_NEWNS) != 0 or _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        if layers:
            raise OSError(ctypes.get_errno(), "no mount namespace")
        return False
    if layers:
        overlay.furnish(layers, scratch)
    _libc.mount(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None)  # may be refused in a container
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    covered = all(
        _libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, b"size=4k,mode=000") == 0
        for folder in hidden
        if folder.is_dir()
    )
    if layers:
        if not covered:
            raise OSError(ctypes.get_errno(), "the state folder could not be hidden")
        overlay.seal(layers, scratch, known)
    return covered


# --- the command ---------------------------------------------------------------------------------------------


def _become(spec: Mapping[str, Any], tell: int, *, covered: bool) -> NoReturn:
    """Turn this process into the command, confined. What goes wrong is told over `tell`."""
    supervisor = os.getppid()
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            os._exit(_CANT_RUN)
        for each in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(each, signal.SIG_DFL)  # the interpreter had these ignored
        os.chdir(str(spec["cwd"]))  # through the covers, not past them
        fence = Fence(
            writable=tuple(Path(each) for each in spec["writable"]),
            hidden=tuple(Path(each) for each in spec["hidden"]),
            covered=covered,
        )
        if spec["layers"]:
            overlay.drop_capabilities()
        abi = restrict(fence) if spec["confine"] else 0
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.Signals(each) for each in spec["mask"]])
        # The pipe closes when the command runs: until then these are the last words.
        _write(tell, {"landlock": abi, "covered": covered})
        argv = [str(each) for each in spec["argv"]]
        os.execvpe(argv[0], argv, {str(k): str(v) for k, v in spec["env"].items()})  # noqa: S606 — that is what it is for
    except OSError as error:
        status = _NOT_FOUND if error.errno == errno.ENOENT else _CANT_RUN
        _write(tell, {"failed": status, "why": error.strerror or str(error)})
        os._exit(status)


def _join_cgroup(folder: str) -> None:
    if folder:
        (Path(folder) / "cgroup.procs").write_text("0")


def _write(fd: int, words: Mapping[str, Any]) -> None:
    os.write(fd, json.dumps(words).encode() + b"\n")


def _merged(words: TextIO) -> dict[str, Any]:
    """All that was said until the other end closed: the command runs, or could not."""
    said: dict[str, Any] = {}
    for line in words:
        said |= json.loads(line)
    return said


def _send(control: socket.socket, words: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the wrapper is gone; what had to end has ended
        control.sendall(json.dumps(words).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
