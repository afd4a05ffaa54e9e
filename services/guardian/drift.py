"""The `config_drift` domain: the station's configuration held against its known good generation.

A generation (guardian/generations/0001.json) holds what was there when the guardian first began, or when a person said
`accept=yes`. What differs is named; a person's approval puts it back, since its domain never goes beyond GUIDE. What
the station wrote on a person's order (consents, admitted domains) is put back only where `files` names it. Settings
(`.env`), keys and what came with the release are compared by digest and only named.

Procedures: `times` reads again what changed by size, time or inode since it read it last, `digest` reads everything,
`strict` also compares modes and names files that no generation knows.
"""

import base64
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from chassis.atomic import read_json, write_whole
from chassis.canonical import Json, canonical_json, sha256_hex
from chassis.clock import Clock, iso
from chassis.errors import Damaged, InvalidInput, NotFound, Refused
from chassis.exchange.manifest import Manifest
from chassis.layout import Layout
from chassis.work import Change, Effects, Outcome, Plan

SCHEMA = "calyx.generation/1"
MAX_BYTES = 1 << 20
"""Of a file's content that a generation keeps; of a larger one only the digest."""
SETTLED = ("config/*.yaml", "config/*.json")
ORDERED = ("config/paths.json", "config/domains/*.json")
NAMED_ONLY = ("config/*.env", "keys/*.pub", "keys/operators/**/*", "station.json")
PROVISIONED = ("domains/*", "playbooks/*", "prometheus/*", "grafana/**/*.json", "supervisor/*", "svf/*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A file of a generation; `content` None where only its digest is kept."""

    sha256: str
    mode: int
    content: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """`back`: it may be put back in this run; `remade`: its mode differs, which a replacement would keep."""

    name: str
    what: str
    back: bool = False
    remade: bool = False


class Generations:
    """Of one station. `deploy` is what came with the release, named `release/…`."""

    def __init__(self, layout: Layout, deploy: Path) -> None:
        self._root, self._deploy = layout.root, deploy
        self.folder = layout.state("guardian") / "generations"

    def found(self, at: str) -> bool:
        """Keep the first one where there is none; True if it was made."""
        if self.newest():
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.path(1), self.made(1, at), mode=0o600)
        return True

    def newest(self) -> int:
        return max((int(path.stem) for path in self.folder.glob("[0-9][0-9][0-9][0-9].json")), default=0)

    def path(self, number: int) -> Path:
        return self.folder / f"{number:04d}.json"

    def made(self, number: int, at: str) -> bytes:
        files = {}
        for name, path in self.present().items():
            data, mode = path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
            kept = kind_of(name) in ("settled", "ordered") and len(data) <= MAX_BYTES
            content = base64.b64encode(data).decode() if kept else None
            files[name] = {"sha256": sha256_hex(data), "mode": mode, "content": content}
        return canonical_json({"schema": SCHEMA, "number": number, "at": at, "files": files}) + b"\n"

    def read(self, number: int) -> dict[str, Kept]:
        """Raises NotFound, Damaged."""
        try:
            raw = read_json(self.path(number))
            found = {
                str(name): Kept(
                    sha256=each["sha256"],
                    mode=int(each["mode"]),
                    content=None if each["content"] is None else base64.b64decode(each["content"], validate=True),
                )
                for name, each in raw["files"].items()
            }
        except FileNotFoundError:
            raise NotFound(f"there is no known good generation {number}; `--param accept=yes` makes one") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"generation {number} can't be read: {error!r}") from error
        for name, kept in found.items():
            if kept.content is not None and sha256_hex(kept.content) != kept.sha256:
                raise Damaged(f"generation {number} holds other bytes of {name} than it says")
        return found

    def place(self, name: str) -> Path:
        release = name.removeprefix("release/")
        return self._deploy / release if release != name else self._root / name

    def present(self) -> dict[str, Path]:
        found = dict(_files(self._root, (*SETTLED, *ORDERED, *NAMED_ONLY)))
        return found | {f"release/{name}": path for name, path in _files(self._deploy, PROVISIONED)}


def _files(root: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            if path.is_file() and not path.is_symlink():
                yield str(path.relative_to(root)), path


def kind_of(name: str) -> str:
    if name.startswith("release/"):
        return "release"
    if any(Path(name).match(pattern) for pattern in ORDERED):
        return "ordered"
    return "settled" if any(Path(name).match(pattern) for pattern in SETTLED) else "named"


class ConfigDrift:
    """Params: `accept=yes`; `generation` (default the newest); `files`, separated by `:`, to put back besides; and
    `station`, below the guardian's scratch, for the drill."""

    domain = "config_drift"
    procedures = ("times", "digest", "strict")

    def __init__(self, *, layout: Layout, deploy: Path, clock: Clock, cpu_seconds: Callable[[], float]) -> None:
        self._layout, self._deploy, self._clock, self._cpu_seconds = layout, deploy, clock, cpu_seconds
        self._seen: dict[Path, tuple[tuple[int, ...], str]] = {}

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        """Make what would be put in place in scratch; nothing else is touched."""
        changes: list[Change] = []
        claims: list[Json] = []
        made, notes = self._due(task)
        for number, (target, data, _, _) in enumerate(made):
            before = sha256_hex(target.read_bytes()) if target.is_file() else None
            copy = scratch / f"{number:03d}-{target.name}"
            copy.write_bytes(data)
            op = "replace" if before else "create"
            changes.append(
                Change(
                    op=op, target=str(target), before_sha256=before, after_sha256=sha256_hex(data), size_bytes=len(data)
                )
            )
            claims.append(_claim(copy, data))
        return Plan(changes=tuple(changes), claims=tuple(claims), notes=notes)

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        started = self._cpu_seconds()
        made, notes = self._due(task)
        for number, (target, data, mode, remade) in enumerate(made):
            copy = scratch / f"{number:03d}-{target.name}"
            copy.write_bytes(data)
            if target.is_file() and not remade:
                effects.replace(target, copy)
                continue
            if target.is_file():
                effects.remove(target)  # a replacement keeps the mode that it finds
            effects.create(target, copy, mode=mode)
        cost = {
            "cpu_seconds": round(self._cpu_seconds() - started, 6),
            "bytes_written": float(sum(len(data) for _, data, _, _ in made)),
        }
        claims = tuple(_claim(target, data) for target, data, _, _ in made)
        return Outcome(detail=notes, claims=claims, cost=cost, no_work=not made)

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        policy = folder / "config" / "policy.yaml"
        policy.parent.mkdir()
        policy.write_text("rules: as they were\n")
        Generations(Layout(folder), folder / "none").found("2020-01-01T00:00:00.000000Z")
        policy.write_text(f"rules: changed for the drill of {procedure}\n")
        return {"station": str(folder)}

    def drifted(self, procedure: str = "times") -> list[Drift]:
        """What differs from the newest generation."""
        generations = Generations(self._layout, self._deploy)
        return self._compared(generations, generations.read(generations.newest()), procedure, frozenset())

    def _due(self, task: Manifest) -> tuple[list[tuple[Path, bytes, int, bool]], str]:
        """What is to be put where, with its mode and whether that differs now; and what to tell."""
        if task.procedure not in self.procedures:
            raise InvalidInput(f"config_drift knows no procedure {task.procedure!r}")
        generations = self._at(task)
        newest = generations.newest()
        if task.params.get("accept") == "yes":
            if newest and not self._compared(generations, generations.read(newest), "strict", frozenset()):
                return [], f"all is as in generation {newest}"
            data = generations.made(newest + 1, iso(task.created_at))
            target = generations.path(newest + 1)
            return [(target, data, 0o600, False)], f"what is there becomes the known good generation {newest + 1}"
        number = task.params.get("generation", str(newest))
        if not (number.isascii() and number.isdigit()):
            raise InvalidInput(f"generation is a number, not {number!r}")
        kept = generations.read(int(number))
        drifts = self._compared(generations, kept, task.procedure, frozenset(task.params.get("files", "").split(":")))
        made = []
        for each in drifts:
            if each.back and (content := kept[each.name].content) is not None:
                made.append((generations.place(each.name), content, kept[each.name].mode, each.remade))
        if not drifts:
            return [], f"all is as in generation {number}"
        told = "; ".join(f"{each.name} {each.what}" for each in drifts)
        how = "; approving puts it back, `--param accept=yes` keeps it" if made else ""
        return made, f"since generation {number}: {told}{how}"

    def _at(self, task: Manifest) -> Generations:
        given = task.params.get("station", "")
        if not given:
            return Generations(self._layout, self._deploy)
        root = Path(given).resolve()
        if not root.is_relative_to(self._layout.work("guardian").resolve()):
            raise Refused(f"config_drift looks at its own station, not at {given}")
        return Generations(Layout(root), root / "none")

    def _compared(
        self, generations: Generations, kept: Mapping[str, Kept], procedure: str, wanted: frozenset[str]
    ) -> list[Drift]:
        found, present = [], generations.present()
        for name, good in sorted(kept.items()):
            kind, path = kind_of(name), present.get(name)
            back = good.content is not None and (kind == "settled" or name in wanted)
            if path is None:
                found.append(Drift(name=name, what="is gone", back=back))
                continue
            mode = stat.S_IMODE(path.stat().st_mode)
            remade = procedure == "strict" and mode != good.mode
            if self._digest(path, procedure) != good.sha256:
                found.append(Drift(name=name, what="was changed", back=back, remade=remade))
            elif remade:
                found.append(Drift(name=name, what=f"has mode {mode:o}, not {good.mode:o}", back=back, remade=True))
        if procedure == "strict":
            found += [Drift(name=name, what="is new") for name in sorted(present) if name not in kept]
        return found

    def _digest(self, path: Path, procedure: str) -> str:
        status = path.stat()
        now = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        before = self._seen.get(path)
        if procedure == "times" and before is not None and before[0] == now:
            return before[1]
        digest = sha256_hex(path.read_bytes())
        self._seen[path] = (now, digest)
        return digest


def _claim(path: Path, data: bytes) -> Json:
    return {
        "kind": "file_digest",
        "target": str(path),
        "expect": {"sha256": sha256_hex(data), "size": str(len(data))},
    }
