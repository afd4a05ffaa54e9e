"""Pressure: the share of time in which tasks waited for CPU, memory or I/O (Documentation/accounting/psi.rst)."""

import errno
from pathlib import Path

from services.governor.readings import PSI_FIGURES, Reading


class PsiMeter:
    """10 s averages from `/proc/pressure`; absent where the kernel has none or was booted with psi=0."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._folder = proc / "pressure"

    def read(self) -> dict[str, Reading]:
        lines = {resource: self._lines(resource) for resource in ("cpu", "memory", "io")}
        readings = {}
        for name in PSI_FIGURES:
            resource, _, kind = name.partition("_")
            found = lines[resource]
            readings[name] = found if isinstance(found, Reading) else _average(found, kind)
        return readings

    def _lines(self, resource: str) -> list[str] | Reading:
        try:
            return (self._folder / resource).read_text().splitlines()
        except FileNotFoundError:
            return Reading.absent("this kernel has no pressure information")
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTDIR):
                return Reading.absent("pressure information is switched off in this kernel")
            return Reading.unknown(f"pressure could not be read: {error.strerror}")


def _average(lines: list[str], kind: str) -> Reading:
    for line in lines:
        name, *fields = line.split()
        if name == kind:
            for field in fields:
                key, _, value = field.partition("=")
                if key == "avg10":
                    try:
                        return Reading.ok(float(value), source="psi")
                    except ValueError:
                        return Reading.unknown(f"pressure reads {value!r}")
    return Reading.absent(f"this kernel does not report {kind!r} here")
