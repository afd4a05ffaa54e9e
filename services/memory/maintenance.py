"""The `index_maintenance` domain: the vector index is held against the store, and derived anew where it differs.

Procedures come to the same index at different cost: `keys` compares which objectives are in it, `vectors` also what it
holds for each, `rebuild` derives it anew without looking first. What is journaled is the record of it, in
memory/maintenance: the index itself is derived and holds nothing that the store does not, so there is nothing of it to
put back.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from chassis.atomic import read_json
from chassis.canonical import Json, canonical_json, sha256_hex
from chassis.clock import Clock, iso
from chassis.errors import Damaged, InvalidInput, Refused
from chassis.exchange.manifest import Manifest
from chassis.layout import Layout
from chassis.work import Change, Effects, Outcome, Plan
from services.memory.memory import Memory
from services.memory.scan import scanning

AGENT = "memory"
RECORD = "index.json"
SCHEMA = "calyx.index/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """Objectives with a vector in the store; entries that the index lacks, has too many, holds otherwise."""

    objectives: int
    missing: int = 0
    extra: int = 0
    wrong: int | None = None
    """None: the vectors were not compared."""

    @property
    def off(self) -> bool:
        return bool(self.missing or self.extra or self.wrong)


class IndexMaintenance:
    """`folder` is where the record lies, `scratch_root` where a drill may put its own. Param `folder`: for the drill.

    Recording and recall go on meanwhile.
    """

    domain = "index_maintenance"
    procedures = ("keys", "vectors", "rebuild")

    def __init__(
        self,
        *,
        memory: Memory,
        folder: Path,
        scratch_root: Path,
        clock: Clock,
        cpu_seconds: Callable[[], float],
        station_id: str,
    ) -> None:
        self._memory, self._folder, self._scratch_root = memory, folder, scratch_root
        self._clock, self._cpu_seconds, self._station_id = clock, cpu_seconds, station_id

    @classmethod
    def of(
        cls, memory: Memory, layout: Layout, clock: Clock, cpu_seconds: Callable[[], float], station_id: str
    ) -> Self:
        """On the station's own folders."""
        return cls(
            memory=memory,
            folder=layout.memory / "maintenance",
            scratch_root=layout.work(AGENT),
            clock=clock,
            cpu_seconds=cpu_seconds,
            station_id=station_id,
        )

    def rehearse(self, task: Manifest, scratch: Path) -> Plan:
        """Look, and write the record into scratch. What it will say is measured when it is done, so its content is not
        part of the plan."""
        target, looked = self._record(task), self._look(task)
        if not looked.off and self._known(target, looked):
            return Plan(changes=(), notes=_in_order(looked))
        made = self._write(task, scratch, looked, rebuilt=False)
        before = sha256_hex(target.read_bytes()) if target.is_file() else None
        change = Change(
            op="replace" if before else "create",
            target=str(target),
            before_sha256=before,
            after_sha256=None,
            size_bytes=0,
        )
        return Plan(changes=(change,), claims=self._claims(task, made, made, {}), notes=_in_words(looked))

    def perform(self, task: Manifest, scratch: Path, effects: Effects) -> Outcome:
        """Raises Damaged when the index differs from the store even though it was derived anew."""
        started, target = self._cpu_seconds(), self._record(task)
        looked = self._look(task)
        if not looked.off and self._known(target, looked):
            return Outcome(detail=_in_order(looked), no_work=True)
        rebuild = (looked.off or task.procedure == "rebuild") and not task.params.get("folder")
        if rebuild:
            self._memory.upkeep.rebuild_index()
            after = self._keys()
            if after.off:
                raise Damaged(f"{_in_words(after)} after it was derived anew; run `calyx memory verify`")
            looked = Looked(objectives=after.objectives, wrong=0)
        made = self._write(task, scratch, looked, rebuilt=rebuild)
        size = made.stat().st_size
        claims = self._claims(task, made, target, {"missing": "0", "extra": "0"})
        if target.is_file():
            effects.replace(target, made)
        else:
            effects.create(target, made)
        cost = {"cpu_seconds": round(self._cpu_seconds() - started, 6), "bytes_written": float(size)}
        done = "derived anew" if rebuild else "held against the store"
        return Outcome(detail=f"the index of {looked.objectives} objectives was {done}", claims=claims, cost=cost)

    def stage_drill(self, folder: Path, procedure: str) -> Mapping[str, str]:
        (folder / RECORD).write_text(f'{{"schema":"{SCHEMA}","procedure":"{procedure}"}}\n')
        return {"folder": str(folder)}

    def _record(self, task: Manifest) -> Path:
        if task.procedure not in self.procedures:
            raise InvalidInput(f"index_maintenance knows no procedure {task.procedure!r}")
        given = task.params.get("folder", "")
        if given and not Path(given).resolve().is_relative_to(self._scratch_root.resolve()):
            raise Refused(f"the record of the index does not lie in {given}")
        return (Path(given) if given else self._folder) / RECORD

    def _look(self, task: Manifest) -> Looked:
        """Twice where something is off: an objective may be between store and index while it is looked at."""
        look = self._vectors if task.procedure == "vectors" else self._keys
        looked = look()
        return look() if looked.off else looked

    def _keys(self) -> Looked:
        shelf = self._memory.shelf
        with scanning(self._memory.store) as found:
            shown = shelf.shown
            entries, waiting = shown.index.keys(), set(shown.waiting)
            keys = set(found.keys(shown.embedder.model_sha256).tolist())
        return Looked(
            objectives=len(keys), missing=len(keys - entries - waiting), extra=len(entries - keys - waiting)
        )  # fmt: skip

    def _vectors(self) -> Looked:
        looked, wrong = self._keys(), 0
        shown = self._memory.shelf.shown
        with scanning(self._memory.store) as found:
            for batch, vectors in found.vectors(shown.embedder.model_sha256, shown.embedder.dimension):
                held = shown.index.vectors(batch)
                for key, vector in zip(batch, vectors, strict=True):
                    wrong += key in held and held[key] != vector.astype("<f4").tobytes()
        return Looked(objectives=looked.objectives, missing=looked.missing, extra=looked.extra, wrong=wrong)

    def _known(self, target: Path, looked: Looked) -> bool:
        """Nothing came or went since the record was written."""
        try:
            value = read_json(target)
            return bool(value["objectives"] == looked.objectives and value["rows"] == self._memory.store.count())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _write(self, task: Manifest, scratch: Path, looked: Looked, *, rebuilt: bool) -> Path:
        shown = self._memory.shelf.shown
        value: dict[str, Any] = {
            "schema": SCHEMA,
            "station_id": self._station_id,
            "task_id": str(task.task_id),
            "procedure": task.procedure,
            "at": iso(self._clock.now()),
            "model": shown.embedder.model_sha256,
            "index": shown.index.name,
            "rows": self._memory.store.count(),
            **asdict(looked),
            "rebuilt": rebuilt,
        }
        made = scratch / RECORD
        made.write_bytes(canonical_json(value) + b"\n")
        return made

    def _claims(self, task: Manifest, made: Path, target: Path, more: Mapping[str, str]) -> tuple[Json, ...]:
        data = made.read_bytes()
        fields = {"station_id": self._station_id, "task_id": str(task.task_id), **more}
        return (
            {
                "kind": "file_digest",
                "target": str(target),
                "expect": {"sha256": sha256_hex(data), "size": str(len(data))},
            },
            {"kind": "json_fields", "target": str(target), "expect": fields},
        )


def _in_words(looked: Looked) -> str:
    wrong = "" if looked.wrong is None else f", {looked.wrong} differ"
    return f"of {looked.objectives} objectives the index lacks {looked.missing}, has {looked.extra} too many{wrong}"


def _in_order(looked: Looked) -> str:
    return f"the index holds the store's {looked.objectives} objectives, and nothing came or went since the last record"
