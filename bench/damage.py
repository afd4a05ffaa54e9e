"""Flipped bytes by the hundred: is each found by one verify, and does a restore bring back what any intact copy holds?

    python bench/damage.py [seeds a kind, 100] [--alone]

`harmless`: every experience reads as before (a flip in unused bytes or in a counter). `missed` must be 0, `whole` all.
`--alone` leaves no backup and no redo log: what is lost must then be exactly what is listed.
"""

import logging
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import structlog

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "memory")]

from damage_world import KINDS, ROWS, fill, trial  # noqa: E402 — found by the line above


def main() -> None:
    numbers = [each for each in sys.argv[1:] if each.isdigit()]
    seeds, alone = int(numbers[0]) if numbers else 100, "--alone" in sys.argv
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    warnings.simplefilter("ignore")
    sys.stdout.write(f"{ROWS} rows, {seeds} flips a kind{', no other copy' if alone else ''}\n")
    sys.stdout.write(
        f"{'where':16}{'found':>7}{'harmless':>10}{'missed':>8}{'whole':>7}{'with losses':>13}{'s each':>8}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder) / "made")
        for kind in KINDS:
            if alone and kind in ("backup", "redo log"):
                continue
            counts, began = Counter[str](), time.monotonic()
            for seed in range(seeds):
                there = Path(folder) / "one"
                done = trial(Path(folder) / "made", there, kind, seed, alone=alone)
                shutil.rmtree(there)
                counts["found" if done.found else "harmless" if done.harmless else "missed"] += 1
                counts["whole"] += done.whole
                counts["lost"] += bool(done.lost)
                if not done.whole or not (done.found or done.harmless):
                    sys.stdout.write(f"  {kind}, seed {seed}: {done}\n")
            took = (time.monotonic() - began) / seeds
            figures = f"{counts['found']:7}{counts['harmless']:10}{counts['missed']:8}{counts['whole']:7}"
            sys.stdout.write(f"{kind:16}{figures}{counts['lost']:13}{took:8.2f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
