"""Where a command is rehearsed: layers over its declared folders, in the state folder, gone when it is over.

An overlay where the kernel mounts one; else a whole copy. `<station>/work/rehearsals/<name>/`, each with a lock: what
a killed run left there goes at the next start.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from chassis.errors import Refused, ResourceExhausted
from chassis.journal.extents import copy
from chassis.journal.survey import Bounds, Found, survey
from chassis.journal.targets import dress, give_attributes, refuse_secret
from chassis.layout import Layout
from cli.run.child import Child, Layer, Spec
from cli.run.plan import Plan, compare, copied, index, merged

MANY = 5_000
"""From so many files on, it is said that they are being looked at."""


class Cannot(Exception):
    """Why it can't be rehearsed here."""


class Stage:
    """One rehearsal. `before` is how the folders looked when it began. `overlay` False: on a copy at once."""

    def __init__(
        self, folder: Path, roots: Sequence[Path], say: Callable[[str], None], *, overlay: bool = True
    ) -> None:
        self._overlay = overlay and all(root.is_dir() for root in roots)
        self._folder, self._roots, self._say = folder, tuple(roots), say
        self.before: dict[str, Found] = {}
        self._copies: dict[str, Found] = {}
        self.layers: tuple[Layer, ...] = ()

    def look(self) -> None:
        """Raises Refused, ResourceExhausted as the journal would when the plan is applied: better before than after."""
        bounds = Bounds()
        for found in survey(self._roots):
            self.before[found.path] = found
            refuse_secret(Path(found.path) if found.kind != "folder" else Path(found.path) / "-")
            if len(self.before) == MANY:
                self._say("many files: looking at all of them")
            if len(self.before) > bounds.files:
                raise ResourceExhausted(f"more than {bounds.files:,} files and folders; name narrower paths")
        if sum(found.stored for found in self.before.values()) > bounds.size_bytes:
            raise ResourceExhausted(f"more than {bounds.size_bytes / 2**20:.0f} MiB; name narrower paths")

    def start(self, spec: Callable[[tuple[Layer, ...]], Spec]) -> Child:
        """The command over an overlay, or over a copy where none can be mounted. Raises Cannot; it was not started."""
        child = Child(spec(self._overlays())) if self._overlay else None
        if child is not None and not child.began.cannot.startswith("overlay"):
            return self._begun(child)
        if child is not None:
            child.ended(5.0)
        self._say("no overlay here, so it is rehearsed on a copy")
        return self._begun(Child(spec(self.copies())))

    @staticmethod
    def _begun(child: Child) -> Child:
        if child.began.cannot:
            child.ended(5.0)
            raise Cannot(child.began.cannot)
        return child

    def _overlays(self) -> tuple[Layer, ...]:
        layers = []
        for n, root in enumerate(self._roots):
            place = self._folder / str(n)
            upper, work = place / "upper", place / "work"
            upper.mkdir(parents=True)
            work.mkdir()
            _like(upper, self.before[str(root)])
            layers.append(Layer(real=root, upper=upper, work=work))
        self.layers = tuple(layers)
        return self.layers

    def copies(self) -> tuple[Layer, ...]:
        """Layers that are whole copies: shared blocks where the file system can. Raises Refused."""
        layers = []
        for n, root in enumerate(self._roots):
            place = self._folder / f"{n}-copy"
            place.mkdir()
            upper = place / "upper"
            below = [found for path, found in self.before.items() if Path(path).is_relative_to(root)]
            for found in below:
                _copy(found, upper / Path(found.path).relative_to(root))
            for found in reversed(below):
                if found.kind == "folder":
                    _like(upper / Path(found.path).relative_to(root), found)
            layers.append(Layer(real=root, upper=upper, work=None))
        self._copies = index(survey([each.upper for each in layers]))
        self.layers = tuple(layers)
        return self.layers

    def plan(self) -> Plan:
        """What the command changed. It has to have ended. Raises Refused."""
        after: dict[str, Found] = {}
        staged: dict[str, Path] = {}
        for layer in self.layers:
            before = {path: found for path, found in self.before.items() if Path(path).is_relative_to(layer.real)}
            now, lies = _seen(before, self._copies, layer)
            after |= now
            staged |= lies
        return compare(self.before, after, staged)


def _seen(
    before: Mapping[str, Found], copies: Mapping[str, Found], layer: Layer
) -> tuple[dict[str, Found], dict[str, Path]]:
    if layer.work is None:
        return copied(copies, layer.real, layer.upper)
    return merged(before, layer.real, layer.upper)


def _like(folder: Path, found: Found) -> None:
    with contextlib.suppress(PermissionError):
        os.chown(folder, found.uid, found.gid)
    with contextlib.suppress(OSError):  # an attribute that only root can give
        give_attributes(folder, found.attributes)
    folder.chmod(found.mode)
    os.utime(folder, ns=(found.mtime_ns, found.mtime_ns))


def _copy(found: Found, to: Path) -> None:
    if found.kind == "folder":
        to.mkdir(mode=0o700)
    elif found.kind == "link":
        to.symlink_to(found.to)
        os.chown(to, found.uid, found.gid, follow_symlinks=False)
        os.utime(to, ns=(found.mtime_ns, found.mtime_ns), follow_symlinks=False)
    elif found.kind == "file":
        try:
            with Path(found.path).open("rb") as reader, to.open("xb") as writer:
                copy(reader.fileno(), writer.fileno(), found.size)
            dress(to, found.to_json(), durable=False)
        except PermissionError as error:
            raise Refused(f"{found.path} can't be copied, so nothing can be rehearsed on it") from error
    else:
        raise Refused(f"{found.path} is no file, folder or link, so it can't be copied for a rehearsal")


def obstacle(layout: Layout, say: Callable[[str], None]) -> str:
    """Why nothing can be rehearsed on this machine; empty if it can. Starts a process that does nothing."""
    with opened(layout, "look") as folder:
        real = folder / "real"
        real.mkdir()
        stage = Stage(folder, [real], lambda _: None)
        stage.look()

        def spec(layers: tuple[Layer, ...]) -> Spec:
            return Spec(
                argv=("true",), env={"PATH": os.defpath}, cwd=Path("/"), writable=(), hidden=(), layers=layers,
                scratch=real, confine=False,
            )  # fmt: skip

        try:
            child = stage.start(spec)
        except Cannot as error:
            return str(error)
        child.ended(20.0)
        return ""


@contextlib.contextmanager
def opened(layout: Layout, name: str) -> Iterator[Path]:
    """A folder of its own, gone afterwards, whatever the command made of its modes; and those of the dead with it."""
    home = layout.work("rehearsals")
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    sweep(home)
    folder = home / f"{name}-{os.getpid()}-{os.urandom(3).hex()}"
    with _locked(home):
        folder.mkdir(mode=0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        remove(folder)
        os.close(lock)


def sweep(home: Path) -> int:
    """Remove what no living run holds; returns how many."""
    gone = 0
    with _locked(home):
        for folder in [each for each in home.iterdir() if each.is_dir()]:
            fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(folder)
                gone += 1
            except BlockingIOError:
                pass  # a living run's
            finally:
                os.close(fd)
    return gone


def remove(folder: Path) -> None:
    """Also what its owner may not enter."""
    for here, names, _ in os.walk(folder, onerror=None):
        for name in names:
            each = Path(here, name)
            if not each.is_symlink():
                with contextlib.suppress(OSError):
                    each.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    fd = os.open(home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
