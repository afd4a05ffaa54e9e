"""What an idle station costs: RSS of all its processes together, CPU share of one core, time to the first pulse.

    python bench/idle.py [--minutes 10] [--json]

Starts a station of its own in a temporary folder (pulses every 60 s), measures, and stops it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

CALYX = [sys.executable, "-m", "cli.main"]


def processes(station: Path) -> list[psutil.Process]:
    """supervisord of this station and everything beneath it."""
    mark = str(station)
    roots = [
        each
        for each in psutil.process_iter(["cmdline"])
        if "supervisor" in " ".join(each.info["cmdline"] or []) and mark in " ".join(each.info["cmdline"] or [])
    ]
    found = {each.pid: each for root in roots for each in [root, *root.children(recursive=True)]}
    return list(found.values())


def cpu_seconds(members: list[psutil.Process]) -> float:
    """CPU time of the processes and of the children that they have waited for."""
    total = 0.0
    for each in members:
        times = each.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="calyx-idle-") as folder:
        station = Path(folder) / "station"
        environment = {**os.environ, "CALYX_STATION_DIR": str(station)}

        def calyx(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([*CALYX, *arguments], env=environment, capture_output=True, text=True, check=False)

        started = time.monotonic()
        up = calyx("up", "--detach", "--port", "0", "--pulse-interval", "60s")
        if up.returncode != 0:
            print(up.stderr or up.stdout, file=sys.stderr)
            return 1
        try:
            while not list((station / "pulses").glob("*/bp-000000001.json")):
                if time.monotonic() - started > 120:
                    print("no pulse within 120 s", file=sys.stderr)
                    return 1
                time.sleep(0.05)
            first_pulse = time.monotonic() - started
            members = processes(station)
            names = {each.pid: " ".join(each.cmdline()[-1:]) for each in members}
            begin, cpu = time.monotonic(), cpu_seconds(members)
            peak, rss = 0, {each.pid: 0 for each in members}
            while time.monotonic() - begin < options.minutes * 60:
                time.sleep(2.0)
                rss = {each.pid: each.memory_info().rss for each in members}
                peak = max(peak, sum(rss.values()))
            elapsed = time.monotonic() - begin
            share = (cpu_seconds(members) - cpu) / elapsed * 100
        finally:
            calyx("down")
        result = {
            "minutes": round(elapsed / 60, 2),
            "processes": len(members),
            "rss_mib": round(sum(rss.values()) / 2**20, 1),
            "rss_peak_mib": round(peak / 2**20, 1),
            "cpu_percent_of_one_core": round(share, 2),
            "seconds_to_first_pulse": round(first_pulse, 2),
            "rss_mib_by_process": {f"{names[pid]}": round(size / 2**20, 1) for pid, size in rss.items()},
        }
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:28} {value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
