"""Decides again what a pulse decided, from its record alone, and compares byte for byte. Pure.

Two questions, kept apart: are the bytes those that were sealed (else `damaged`, with the parts that are not), and do
the recorded inputs give the recorded decisions. Where they don't, though the seal holds, other code is `different
code`; the same code is `differs`, which is damage as well: whoever wrote it down sealed what was not decided.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chassis.canonical import Json, canonical_json
from chassis.errors import Damaged
from chassis.policy import RuleSet
from services.cbo import again, record, seal
from services.cbo.report import report

Status = Literal["identical", "recorded before replay", "different code", "damaged"]
Rules = Callable[[str], RuleSet | None]
"""The policy of this digest; None when it is not kept any more. Raises Damaged when it is another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One part that is not as it should be. `damage`: whatever code reads it."""

    section: str
    path: str
    reason: str
    damage: bool

    def to_json(self) -> Json:
        return {"section": self.section, "path": self.path, "reason": self.reason, "damage": self.damage}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the replay of one record says. `sections` were decided again; `skipped` could not be, and why."""

    pulse: str
    status: Status
    reason: str
    findings: tuple[Finding, ...] = ()
    sections: tuple[str, ...] = ()
    skipped: Mapping[str, str]

    @property
    def damaged(self) -> bool:
        return self.status == "damaged"

    def to_json(self) -> Json:
        return {
            "pulse": self.pulse,
            "status": self.status,
            "reason": self.reason,
            "findings": [each.to_json() for each in self.findings],
            "sections": list(self.sections),
            "skipped": dict(self.skipped),
        }


def replay(pulse: str, raw: bytes, page: bytes | None, before: bytes | None, code: str, rules: Rules) -> Verdict:
    """`raw` and `page` are the record's and the report's file, `before` that of the record before it; None: it is not
    there any more (of the report: damage, since it is written with the record). Raises nothing."""
    if not _sealed(raw):
        return _old(pulse)
    findings = [_broken(each) for each in seal.check(raw)]
    if findings:  # what can't be trusted is not decided again
        return _verdict(pulse, findings, same_code=True)
    whole: Json = json.loads(raw)
    findings += _chain(pulse, whole, before)
    found, done, skipped = _decided(whole, rules)
    findings += found
    if page is None:
        findings.append(Finding(section="report", path="report", reason="it is not there", damage=True))
    elif (made := report(whole).encode()) != page:
        at = next((n for n, (a, b) in enumerate(zip(made, page, strict=False)) if a != b), min(len(made), len(page)))
        line = page[:at].count(b"\n") + 1
        findings.append(
            Finding(section="report", path=f"line {line}", reason="it is not what the record gives", damage=False)
        )
    return _verdict(
        pulse, findings, same_code=whole["versions"].get("sources") == code, sections=(*done, "report"), skipped=skipped
    )


def missing(pulse: str) -> Verdict:
    """The database knows of the pulse, but its record is gone."""
    lost = Finding(section="record", path="record", reason="the file is not there", damage=True)
    return _verdict(pulse, [lost], same_code=True)


def _old(pulse: str) -> Verdict:
    why = "its record does not hold all that its decisions rest on"
    return Verdict(pulse=pulse, status="recorded before replay", reason=why, skipped={})


def _sealed(raw: bytes) -> bool:
    """Whether it claims to be, or looks as if it had been, one of the records that are sealed."""
    return seal.digest_of(raw) != "" or b'"schema":"calyx.pulse/1"' not in raw


def _broken(broken: seal.Broken) -> Finding:
    return Finding(section=broken.path.partition(".")[0], path=broken.path, reason=broken.reason, damage=True)


def _chain(pulse: str, whole: Json, before: bytes | None) -> list[Finding]:
    """Is it the record that it says, and the record before it the one that it names?"""
    findings = []
    if whole["id"] != pulse:
        reason = f"this is the record of {whole['id']}"
        findings.append(Finding(section="id", path="id", reason=reason, damage=True))
    named = whole["previous"]
    if named is None and before is not None and seal.digest_of(before):
        reason = "it names no record before it"
        findings.append(Finding(section="previous", path="previous", reason=reason, damage=True))
    if named is not None and before is not None and named["digest"] != seal.digest_of(before):
        reason = f"the record of {named['id']} is not the one that was there when this was written"
        findings.append(Finding(section="previous", path="previous.digest", reason=reason, damage=True))
    return findings


def _decided(whole: Json, rules: Rules) -> tuple[list[Finding], list[str], dict[str, str]]:
    """Every section again; where the code can't even read its inputs, that is said of this section."""
    findings: list[Finding] = []
    done: list[str] = []
    skipped: dict[str, str] = {}
    if whole["status"] == "interrupted":
        return findings, done, {"plan, critique": "the pulse did not come to them"}
    for section, decide in again.sections(whole, rules):
        try:
            kept, made = decide()
        except again.Unknown as error:
            skipped[section] = str(error)
            continue
        except Damaged as error:
            findings.append(Finding(section=section, path=section, reason=error.message, damage=True))
            continue
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            reason = f"its inputs don't read as this code expects them: {error!r}"
            findings.append(Finding(section=section, path=section, reason=reason, damage=False))
            continue
        done.append(section)
        if canonical_json(kept) != canonical_json(made):
            path, was, now = next(_differences(section, kept, made))
            reason = f"recorded {_short(was)}, decided again {_short(now)}"
            findings.append(Finding(section=section, path=path, reason=reason, damage=False))
    return findings, done, skipped


def _verdict(
    pulse: str,
    findings: list[Finding],
    *,
    same_code: bool,
    sections: tuple[str, ...] = (),
    skipped: Mapping[str, str] | None = None,
) -> Verdict:
    status: Status = "identical"
    reason = "the same decisions, byte for byte" + ("" if same_code else ", under other code")
    if skipped:
        reason += "; not decided again: " + "; ".join(f"{name} ({why})" for name, why in skipped.items())
    if findings:
        status = "damaged" if same_code or any(each.damage for each in findings) else "different code"
        places = ", ".join(dict.fromkeys(each.path for each in findings))
        reason = f"differs in {places}" if status == "damaged" else f"other code decides otherwise in {places}"
    return Verdict(
        pulse=pulse, status=status, reason=reason, findings=tuple(findings), sections=sections, skipped=skipped or {}
    )


def _differences(path: str, kept: Any, made: Any) -> Iterator[tuple[str, Any, Any]]:
    """The places where two JSON values differ, the deepest that is still whole."""
    if isinstance(kept, dict) and isinstance(made, dict):
        for key in sorted({*kept, *made}):
            yield from _differences(f"{path}.{key}", kept.get(key), made.get(key))
    elif isinstance(kept, list | tuple) and isinstance(made, list | tuple) and len(kept) == len(made):
        for number, (was, now) in enumerate(zip(kept, made, strict=True)):
            yield from _differences(f"{path}[{number}]", was, now)
    elif canonical_json(kept) != canonical_json(made):
        yield path, kept, made


def _short(value: Any) -> str:
    text = canonical_json(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


def code() -> str:
    """Of this process, as records name it."""
    return record.sources()
