"""How long the walk over an audit chain takes: `python -m bench.audit [--lines 1000000] [--json]`.

The chain is made with the writer's own line format over rotated files, without its fsync for each line.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from chassis.audit import GENESIS, SEGMENT_BYTES, _line, archive_of, segments, verify


def make(path: Path, lines: int) -> None:
    head, size, file = GENESIS, 0, path.open("wb")
    archive_of(path).mkdir()
    for number in range(lines):
        if size >= SEGMENT_BYTES:
            file.close()
            path.rename(archive_of(path) / f"{len(segments(path)):08d}.jsonl")
            file, size = path.open("wb"), 0
        head, line = _line(
            head,
            {
                "at": "2026-11-23T06:00:00.000000Z", "service": "cbo", "event": "task.dispatched",
                "task": f"t-{number}", "domain": "log_rotation", "why": "level is EXECUTE, within the budget",
            },
        )  # fmt: skip
        size += file.write(line + b"\n")
    file.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="walk a long audit chain")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cbo.jsonl"
        make(path, options.lines)
        size = sum(each.stat().st_size for each in segments(path))
        began = time.perf_counter()
        found = verify(path)
        seconds = time.perf_counter() - began
    figures = {
        "lines": found.lines, "holds": found.first_bad is None, "mib": round(size / 2**20, 1),
        "seconds": round(seconds, 2), "lines_per_second": round(found.lines / seconds),
    }  # fmt: skip
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        sys.stdout.write(
            f"{found.lines:,} lines, {figures['mib']} MiB: {found.reason}, {seconds:.1f} s "
            f"({found.lines / seconds:,.0f} lines a second)\n"
        )
    return 0 if found.first_bad is None else 1


if __name__ == "__main__":
    raise SystemExit(main())
