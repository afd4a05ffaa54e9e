"""`calyx.probe.v1.ProbeService`: checks another service's work. Served by governor and guardian."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from calyx.probe.v1 import probe_pb2 as pb
from calyx.probe.v1 import probe_pb2_grpc

from chassis.clock import Clock
from chassis.errors import InvalidInput, Refused
from chassis.executor import Executor
from chassis.probing import Check, Report, Verdict

FULL_NAME = "calyx.probe.v1.ProbeService"
ALLOW: Mapping[str, frozenset[str]] = {"Probe": frozenset({"cbo", "operator"})}
MAX_CHECKS = 1000

WIRE: Mapping[Verdict, pb.Verdict.ValueType] = {
    Verdict.CONFIRMED: pb.VERDICT_CONFIRMED,
    Verdict.REFUTED: pb.VERDICT_REFUTED,
    Verdict.INCONCLUSIVE: pb.VERDICT_INCONCLUSIVE,
}


class ProbeServicer(probe_pb2_grpc.ProbeServiceServicer):
    """Runs the checks off the event loop. `runner` is `run_checks` with this prober's roots and knowledge."""

    def __init__(
        self, prober_name: str, executor: Executor, clock: Clock, runner: Callable[[Sequence[Check]], Report]
    ) -> None:
        self._prober, self._executor, self._clock, self._runner = prober_name, executor, clock, runner

    async def Probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeResponse:
        if not request.doer:
            raise InvalidInput("say who did the work: a probe without a doer could certify itself")
        if request.doer == self._prober:
            raise Refused(f"{self._prober} did this work and does not certify itself; ask another prober")
        if len(request.checks) > MAX_CHECKS:
            raise InvalidInput(f"at most {MAX_CHECKS} checks in one probe")
        checks = [Check(kind=c.kind, target=c.target, expect=dict(c.expect)) for c in request.checks]
        report = await self._executor.run(self._runner, checks)
        response = pb.ProbeResponse(
            verdict=WIRE[report.verdict],
            findings=[
                pb.Finding(
                    check=pb.Check(kind=f.check.kind, target=f.check.target, expect=dict(f.check.expect)),
                    verdict=WIRE[f.verdict],
                    found=f.found,
                )
                for f in report.findings
            ],
            prober=self._prober,
        )
        response.probed_at.FromDatetime(self._clock.now())
        return response
