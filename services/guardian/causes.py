"""Root causes, ranked: what may have happened, what speaks for it, and what would disprove it."""

from dataclasses import dataclass, field

from chassis.canonical import Json

LOW_DISK_BYTES = 64 * 1024 * 1024
FULL_PERCENT = 95.0
RECENT_CHANGE_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found when a fault was seen. None = not known, which speaks for nothing.

    `config_changed_seconds`: since the configuration file was last written. `errors`: last error lines of its log.
    """

    target: str
    answer: str = ""
    process: str = "unknown"
    process_detail: str = ""
    exit_code: int | None = None
    signal: str = ""
    oom_killed: bool = False
    ram_percent: float | None = None
    disk_percent: float | None = None
    disk_free_bytes: int | None = None
    config_changed_seconds: float | None = None
    config_suspect: bool = False
    down_too: tuple[str, ...] = ()
    recent_faults: int = 0
    errors: tuple[str, ...] = ()
    reported_by: str = ""
    symptom: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One possible cause; `confidence` 0 to 1 is a rank made by hand, not a measured frequency."""

    cause: str
    confidence: float
    evidence: tuple[str, ...] = field(default=())
    disproved_by: str = ""

    def to_json(self) -> Json:
        return {
            "cause": self.cause,
            "confidence": self.confidence,
            "evidence": list(self.evidence),
            "disproved_by": self.disproved_by,
        }


def root_cause(evidence: Evidence) -> tuple[Cause, ...]:
    """Every cause the evidence speaks for, most likely first. Never empty: not knowing is also said."""
    found = [*_memory(evidence), *_disk(evidence), *_ending(evidence), *_config(evidence), *_around(evidence)]
    if evidence.symptom and evidence.reported_by:
        found.append(
            Cause(
                cause=f"as {evidence.reported_by} reported: {evidence.symptom}",
                confidence=0.6,
                evidence=(f"report of {evidence.reported_by}",),
                disproved_by="the reporter's own check passing without any repair",
            )
        )
    if not found:
        found.append(
            Cause(
                cause="not known",
                confidence=0.1,
                evidence=(evidence.answer or "it did not answer",),
                disproved_by=f"an error in logs/{evidence.target}.log, or an exit status from the runtime",
            )
        )
    return tuple(sorted(found, key=lambda cause: (-cause.confidence, cause.cause)))


def _memory(evidence: Evidence) -> list[Cause]:
    ram = evidence.ram_percent
    full = ram is not None and ram >= FULL_PERCENT
    facts = tuple(
        text
        for holds, text in (
            (evidence.oom_killed, "the runtime says: OOM-killed"),
            (full, f"memory {ram:.0f} % used" if ram is not None else ""),
            (evidence.signal == "SIGKILL", "terminated by SIGKILL"),
        )
        if holds
    )
    if not (evidence.oom_killed or (full and evidence.signal == "SIGKILL")):
        return []
    return [
        Cause(
            cause="out of memory",
            confidence=0.95 if evidence.oom_killed else 0.7,
            evidence=facts,
            disproved_by="no oom_kill counted in the cgroup's memory.events at that time",
        )
    ]


def _disk(evidence: Evidence) -> list[Cause]:
    free = evidence.disk_free_bytes
    said = [line for line in evidence.errors if "No space left" in line or "disk is full" in line or "ENOSPC" in line]
    if (free is None or free >= LOW_DISK_BYTES) and not said:
        return []
    facts = (f"{free // 1024**2} MiB free on the station's disk",) if free is not None else ()
    return [
        Cause(
            cause="the disk is full",
            confidence=0.9,
            evidence=(*facts, *said[-2:]),
            disproved_by="a write to the station folder that succeeds",
        )
    ]


def _ending(evidence: Evidence) -> list[Cause]:
    if evidence.signal:
        return [
            Cause(
                cause=f"its process was killed from outside ({evidence.signal})"
                if evidence.signal in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
                else f"its process crashed ({evidence.signal})",
                confidence=0.85,
                evidence=(f"terminated by {evidence.signal}", *evidence.errors[-1:]),
                disproved_by="an exit status instead of a signal in the runtime's record",
            )
        ]
    if evidence.process in ("failed", "stopped") and evidence.exit_code == 0:
        return [
            Cause(
                cause="it was asked to stop, and nobody started it again",
                confidence=0.7,
                evidence=("its process ended with status 0",),
                disproved_by="no `stopping` line at the end of its log",
            )
        ]
    if evidence.process == "failed":
        status = f"exit status {evidence.exit_code}" if evidence.exit_code not in (None, -1) else "its process ended"
        return [
            Cause(
                cause="its process failed by itself" + (f": {evidence.errors[-1]}" if evidence.errors else ""),
                confidence=0.75 if evidence.errors else 0.5,
                evidence=(evidence.process_detail or status, *evidence.errors[-3:]),
                disproved_by="the same version running on with the same configuration and data",
            )
        ]
    if evidence.process == "stopped":
        return [
            Cause(
                cause="somebody stopped it through the runtime",
                confidence=0.6,
                evidence=(evidence.process_detail or "the runtime says: stopped",),
                disproved_by="no stop request in the runtime's log",
            )
        ]
    if evidence.process == "running":
        return [
            Cause(
                cause="its process runs but does not answer: hung, stopped by a signal, or starved of CPU",
                confidence=0.5,
                evidence=(evidence.answer or "the runtime says: running", *evidence.errors[-1:]),
                disproved_by="an answer to a patient health check",
            )
        ]
    return []


def _config(evidence: Evidence) -> list[Cause]:
    changed = evidence.config_changed_seconds
    if not evidence.config_suspect:
        return []
    recent = changed is not None and changed < RECENT_CHANGE_SECONDS
    when = f", written {changed:.0f} s before" if changed is not None else ""
    said = [line for line in evidence.errors if "settings" in line or "config" in line]
    return [
        Cause(
            cause="a change of its configuration",
            confidence=0.9 if recent and evidence.exit_code == 2 else 0.65 if recent else 0.4,
            evidence=(f"config/{evidence.target}.env differs from the last good one{when}", *said[-1:]),
            disproved_by="the same fault with the last good configuration",
        )
    ]


def _around(evidence: Evidence) -> list[Cause]:
    causes = []
    if len(evidence.down_too) >= 2:
        causes.append(
            Cause(
                cause="something that several services share (machine, disk, runtime)",
                confidence=0.6,
                evidence=(f"down at the same time: {', '.join(evidence.down_too)}",),
                disproved_by="the others recovering while this one does not",
            )
        )
    if evidence.recent_faults >= 2:
        causes.append(
            Cause(
                cause="a fault that a restart does not remove",
                confidence=0.3,
                evidence=(f"{evidence.recent_faults} earlier incidents within the last hour",),
                disproved_by="an hour without another one",
            )
        )
    return causes
