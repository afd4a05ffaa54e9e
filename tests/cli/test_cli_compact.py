"""`calyx memory compact`: what would be done, what was done, how far it is."""

import json

from calyx.memory.v1 import memory_pb2 as pb
from cli_harness import Console

DONE = pb.CompactResponse(merged=1_200, kept=34, rollups=7, retired=2, freed_bytes=4_096)


def test_a_compaction_tells_what_it_did(calyx: Console) -> None:
    calyx.answers(Compact=DONE)
    said = calyx.run("memory", "compact")[0]
    assert "1200 experiences rolled up, 7 roll-ups in all; 34 rows kept" in said
    assert "2 retired by policy; 4096 bytes given back" in said


def test_a_dry_run_says_what_would_be_done_and_not_what_nobody_knows(calyx: Console) -> None:
    calyx.answers(Compact=DONE)
    said = calyx.run("memory", "compact", "--dry-run")[0]
    assert "1200 experiences would be rolled up" in said
    assert "bytes" not in said
    value = json.loads(calyx.run("memory", "compact", "--dry-run", "--json")[0])
    assert value == {"dry_run": True, "merged": 1200, "kept": 34, "rollups": 7, "retired": 2, "freed_bytes": None}
