"""What may be a target, what is there now, and who may change it: consent, snapshots, fenced locks."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from chassis.canonical import Json, canonical_json
from chassis.clock import Clock
from chassis.errors import Drifted, LeaseLost, Refused, Unavailable
from chassis.journal.extents import prefix_digest

Consent = Callable[[Path], None]
"""Raises Refused for a path the station may not change."""

SECRET_FOLDERS = {".ssh", ".gnupg", ".aws", ".kube", ".password-store", "secrets"}
_SECRET_NAMES = re.compile(
    r"\.env(\..*)?|.*\.env|.*\.(pem|key|p12|pfx|kdbx|jks|keystore|token|gpg)|id_(rsa|dsa|ecdsa|ed25519)(_sk)?(\..*)?"
    r"|\.netrc|\.pgpass|\.git-credentials|authorized_keys",
    re.IGNORECASE,
)
_LOCK_SECONDS = 10.0
_REMEMBERED_TASKS = 64


def consent_within(roots: Sequence[Path]) -> Consent:
    """Consent for everything under these folders and nothing else. Links in the way are followed first."""
    allowed = [root.resolve() for root in roots]
    return lambda path: refuse_outside(allowed, path)


def refuse_outside(allowed: Sequence[Path], path: Path) -> None:
    """Raises Refused unless it lies under one of these folders, whose own links have been followed."""
    real = path.parent.resolve() / path.name
    if not any(real.is_relative_to(root) and real != root for root in allowed):
        raise Refused(f"{path} is outside the folders this domain may change; allow its path first")


def refuse_secret(path: Path) -> None:
    """Raises Refused for key files, credentials and everything under .ssh, .gnupg and the like."""
    if SECRET_FOLDERS & {part.lower() for part in path.parts[:-1]} or _SECRET_NAMES.fullmatch(path.name):
        raise Refused(f"{path.name} looks like a secret; secrets are never a target and never copied")


def real_target(path: Path) -> Path:
    """The one name a target has: absolute, its folder's links followed. A link itself is refused."""
    if not path.is_absolute() or ".." in path.parts or path.name in ("", "."):
        raise Refused(f"{path} is not an absolute path of one file")
    real = path.parent.resolve() / path.name
    try:
        str(real).encode()
    except UnicodeEncodeError as error:
        raise Refused("a file name that is not UTF-8 can't be journaled") from error
    if real.is_symlink():
        raise Refused(f"{path} is a link; links are never changed")
    return real


def snapshot(path: Path) -> Json | None:
    """What is there: sha256, size, mode, owner, times, inode; None for nothing. Refused if it is no plain file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Refused(f"{path} can't be read ({error.strerror}); nothing was changed") from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise Refused(f"{path} is not a plain file; nothing was changed")
    with os.fdopen(fd, "rb") as file:
        sha256 = prefix_digest(fd, found.st_size)  # of this size exactly: a log may grow while it is read
        if sha256 is None:
            raise Drifted(f"{path} became shorter while it was read; nothing was changed")
        more = attributes(file.fileno())
        return {
            "sha256": sha256,
            "size": found.st_size,
            "mode": stat.S_IMODE(found.st_mode),
            "uid": found.st_uid,
            "gid": found.st_gid,
            "mtime_ns": found.st_mtime_ns,
            "ino": found.st_ino,
            **({"attributes": more} if more else {}),
        }


def attributes(file: int | Path) -> dict[str, str]:
    """Extended attributes in hex, access lists among them; none where the file system has none."""
    follow = {} if isinstance(file, int) else {"follow_symlinks": False}
    try:
        return {name: os.getxattr(file, name, **follow).hex() for name in os.listxattr(file, **follow)}
    except OSError:
        return {}


def give_attributes(file: int | Path, wanted: dict[str, str]) -> None:
    """Make them exactly these."""
    found = attributes(file)
    for name in found.keys() - wanted.keys():
        os.removexattr(file, name)
    for name, value in wanted.items():
        if found.get(name) != value:
            os.setxattr(file, name, bytes.fromhex(value))


LIKE = ("mode", "uid", "gid")


def like(found: Json) -> Json:
    """What a file that takes this one's place is to look like."""
    return {key: found[key] for key in (*LIKE, "attributes") if key in found}


def same_dress(now: Json, after: Json) -> bool:
    """Mode and owner are as recorded, as far as both say."""
    return all(now[key] == after[key] for key in LIKE if key in now and key in after)


def prefix_sha256(path: Path, size: int) -> str | None:
    """sha256 of the first `size` bytes; None when there are fewer."""
    with path.open("rb") as file:
        return prefix_digest(file.fileno(), size)


def dress(path: Path, like: Json, *, durable: bool = True) -> None:
    """Give a file the mode, owner, attributes and mtime of a snapshot."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if (found.st_uid, found.st_gid) != (like["uid"], like["gid"]):
            os.fchown(fd, like["uid"], like["gid"])
        os.fchmod(fd, like["mode"])
        give_attributes(fd, like.get("attributes", {}))
        if "mtime_ns" in like:
            os.utime(fd, ns=(found.st_atime_ns, like["mtime_ns"]))
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def same_file_system(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def nearest_folder(path: Path) -> Path:
    """The path itself if it is a folder, else the innermost one above it that is there."""
    return next(each for each in (path, *path.parents) if each.is_dir())


def stands_still(path: Path) -> None:
    """Raises Drifted when a recorded path leads elsewhere by now (a folder became a link)."""
    if path.parent.resolve() != path.parent:
        raise Drifted(f"{path.parent} leads elsewhere than it did; nothing was touched")


class Locks:
    """One lock per target, a folder's with all that is below it. A lock's record remembers the highest epoch of each
    task that came to it.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder, self._clock = folder, clock

    @contextlib.contextmanager
    def held(self, targets: Sequence[Path], task_id: str, epoch: int) -> Iterator[None]:
        """Hold these targets' locks, and shares of their folders', so that nobody holds a whole folder meanwhile.

        Raises LeaseLost if a later epoch of the task has been here, Unavailable.
        """
        own = {self._path(target) for target in targets}
        shared = {self._path(folder) for target in targets for folder in target.parents} - own
        with contextlib.ExitStack() as stack:
            for path in sorted(own | shared):
                fd = stack.enter_context(self._locked(path, fcntl.LOCK_EX if path in own else fcntl.LOCK_SH))
                if path in own:
                    self._fence(fd, task_id, epoch)
            yield

    def _path(self, target: Path) -> Path:
        return self._folder / hashlib.sha256(str(target).encode()).hexdigest()

    @contextlib.contextmanager
    def _locked(self, path: Path, how: int) -> Iterator[int]:
        deadline = self._clock.monotonic() + _LOCK_SECONDS
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if not _flocked(fd, how):
                    if self._clock.monotonic() >= deadline:
                        raise Unavailable("the target is locked by another task; nothing was changed")
                    self._clock.wait(0.05)
                elif os.fstat(fd).st_nlink:  # else it was forgotten before we had it
                    yield fd
                    return
            finally:
                os.close(fd)

    def forget(self, targets: Sequence[Path], ended: Callable[[str], bool]) -> None:
        """Drop the records of these targets, and of the folders above them, that nobody holds and that remember only
        tasks of which `ended` says that they can't come back.
        """
        for path in {self._path(each) for target in targets for each in (target, *target.parents)}:
            try:
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                if _flocked(fd, fcntl.LOCK_EX) and os.fstat(fd).st_nlink and all(map(ended, _epochs(fd))):
                    path.with_suffix(".heirs").unlink(missing_ok=True)
                    path.unlink()
            finally:
                os.close(fd)

    def _fence(self, lock: int, task_id: str, epoch: int) -> None:
        """In the lock's own file: one more file for each change was a third of its cost. Not synced: after a power
        cut no older holder lives."""
        epochs = _epochs(lock)
        if epochs.get(task_id, 0) > epoch:
            raise LeaseLost(f"epoch {epochs[task_id]} of task {task_id} has been here; epoch {epoch} may not act")
        if epochs.get(task_id) != epoch:
            epochs.pop(task_id, None)
            kept = list(epochs.items())[-(_REMEMBERED_TASKS - 1) :]
            data = canonical_json([*([k, v] for k, v in kept), [task_id, epoch]])
            os.pwrite(lock, data, 0)
            os.ftruncate(lock, len(data))


def _flocked(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _epochs(lock: int) -> dict[str, int]:
    """The highest epoch of each task that a lock remembers, oldest first; none in a new one, or after a power cut."""
    try:
        # The first value counts: a holder killed between the two calls of `_fence` leaves the end of a longer one.
        return dict(json.JSONDecoder().raw_decode(os.pread(lock, 1 << 16, 0).decode())[0])
    except (ValueError, TypeError):
        return {}
