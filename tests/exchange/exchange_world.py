"""What every exchange test needs: keys, a clock, a kill switch and one exchange of either kind."""

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from chassis.clock import VirtualClock
from chassis.exchange.files import FilesExchange
from chassis.exchange.grants import Signer, Verifier, generate_key
from chassis.exchange.manifest import Ack, Manifest, TaskId
from chassis.exchange.memory import MemoryExchange
from chassis.exchange.port import Claim, Exchange
from chassis.killswitch import KillSwitch

LEASE = 30.0
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None  # durability is not what these tests look at
_keys = tempfile.TemporaryDirectory()
PRIVATE, PUBLIC = Path(_keys.name) / "grant.key", Path(_keys.name) / "grant.pub"
generate_key(PRIVATE, PUBLIC)
SIGNER, VERIFIER = Signer.load(PRIVATE), Verifier.load(PUBLIC)


class World:
    def __init__(self, kind: str, root: Path, clock: VirtualClock | None = None) -> None:
        self.kind, self.root = kind, root
        root.mkdir(parents=True, exist_ok=True)
        self.clock = clock or VirtualClock()
        self.kill_switch = KillSwitch(root / "manual_shutdown.flag")
        self.exchange: Exchange = self.open()

    def open(self) -> Exchange:
        make: dict[str, Callable[[], Exchange]] = {
            "memory": lambda: MemoryExchange(self.clock, VERIFIER.valid, self.kill_switch, LEASE),
            "files": lambda: FilesExchange(self.root / "svf", self.clock, VERIFIER.valid, self.kill_switch, LEASE),
        }
        return make[self.kind]()

    def task(self, task_id: str, *, sign: bool = True, **fields: Any) -> Manifest:
        return task(self.clock, task_id, sign=sign, **fields)

    def ack(self, claim: Claim, status: Any = "done", **fields: Any) -> Ack:
        return ack(self.clock, claim, status, **fields)

    def claim(self, pool: str = "governor", worker: str = "w1") -> Claim:
        claims = self.exchange.claim(pool, worker, 1)
        assert claims, "nothing could be claimed"
        return claims[0]

    def stale(self) -> Any:
        """Let every lease run out: the reaper must see the counter twice, a lease apart."""
        self.exchange.sweep()
        self.clock.advance(LEASE)
        return self.exchange.sweep()


def task(clock: VirtualClock, task_id: str, *, sign: bool = True, **fields: Any) -> Manifest:
    ttl = fields.pop("ttl_seconds", 600.0)
    values: dict[str, Any] = {
        "station_id": "st-1",
        "task_id": TaskId(task_id),
        "owner": "governor",
        "issuer": "cbo",
        "domain": "log_rotation",
        "procedure": "gzip-6",
        "created_at": clock.now(),
        "expires_at": clock.now() + timedelta(seconds=ttl),
        "ttl_seconds": ttl,
        **fields,
    }
    manifest = Manifest(**values)
    return SIGNER.sign(manifest) if sign else manifest


def ack(clock: VirtualClock, claim: Claim, status: Any = "done", **fields: Any) -> Ack:
    return Ack(
        task_id=claim.manifest.task_id,
        epoch=claim.epoch,
        agent="governor",
        status=status,
        started_at=clock.now(),
        ended_at=clock.now(),
        duration_seconds=0.5,
        **fields,
    )
