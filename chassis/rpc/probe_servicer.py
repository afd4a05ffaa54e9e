"""`calyx.probe.v1.ProbeService`: checks another service's work. Served by governor and guardian."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from calyx.probe.v1 import probe_pb2 as pb
from calyx.probe.v1 import probe_pb2_grpc

from chassis.clock import Clock
from chassis.errors import InvalidInput, Refused
from chassis.executor import Executor
from chassis.footprints import Terms
from chassis.probing import Check, Report, Verdict
from chassis.watchbook import WatchBook

FULL_NAME = "calyx.probe.v1.ProbeService"
ALLOW: Mapping[str, frozenset[str]] = {
    "Probe": frozenset({"cbo", "operator"}),
    "Watch": frozenset({"cbo"}),
    "Compare": frozenset({"cbo"}),
}
MAX_CHECKS = 1000

WIRE: Mapping[Verdict, pb.Verdict.ValueType] = {
    Verdict.CONFIRMED: pb.VERDICT_CONFIRMED,
    Verdict.REFUTED: pb.VERDICT_REFUTED,
    Verdict.INCONCLUSIVE: pb.VERDICT_INCONCLUSIVE,
}


class ProbeServicer(probe_pb2_grpc.ProbeServiceServicer):
    """Runs the checks off the event loop. `runner` is `run_checks` with this prober's roots and knowledge."""

    def __init__(
        self,
        prober_name: str,
        executor: Executor,
        clock: Clock,
        runner: Callable[[Sequence[Check]], Report],
        book: WatchBook | None = None,
    ) -> None:
        self._prober, self._executor, self._clock, self._runner = prober_name, executor, clock, runner
        self._book = book

    def _not_itself(self, doer: str) -> None:
        if not doer:
            raise InvalidInput("say who did the work: a probe without a doer could certify itself")
        if doer == self._prober:
            raise Refused(f"{self._prober} did this work and does not certify itself; ask another prober")

    async def Watch(self, request: pb.WatchRequest, context: Any) -> pb.WatchResponse:
        self._not_itself(request.doer)
        if self._book is None:
            return pb.WatchResponse(failed=f"{self._prober} keeps no listings")
        if request.moment == pb.MOMENT_AFTER:
            why = [await self._executor.run(self._book.end, each) for each in request.task_ids]
            return pb.WatchResponse(failed=next(filter(None, why), ""))
        if request.moment not in (pb.MOMENT_BEFORE, pb.MOMENT_ANEW):
            raise InvalidInput("say whether it is a look before or after")
        again = request.moment == pb.MOMENT_ANEW
        ids, roots = list(request.task_ids), list(request.roots)
        return pb.WatchResponse(failed=await self._executor.run(partial(self._book.begin, again=again), ids, roots))

    async def Compare(self, request: pb.CompareRequest, context: Any) -> pb.CompareResponse:
        self._not_itself(request.doer)
        if self._book is None:
            found = f"{self._prober} keeps no listings"
            return pb.CompareResponse(verdict=pb.VERDICT_INCONCLUSIVE, found=found, prober=self._prober)
        terms = Terms(
            effects=[
                {"op": each.op, "target": each.target, "to": each.to, "after_sha256": each.after_sha256}
                for each in request.declared
            ],
            others=list(request.others),
            grows=list(request.grows),
            must_change=request.must_change,
        )
        made = await self._executor.run(self._book.compare, request.task_id, request.doer, terms)
        return pb.CompareResponse(
            verdict=WIRE[made.verdict],
            found=_sayable(made.found),
            undeclared=[_sayable(each) for each in made.undeclared[:MAX_CHECKS]],
            missing=[_sayable(each) for each in made.missing[:MAX_CHECKS]],
            others=[_sayable(each) for each in made.others[:MAX_CHECKS]],
            prober=self._prober,
        )

    async def Probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeResponse:
        self._not_itself(request.doer)
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


def _sayable(text: str) -> str:
    """A name that is not UTF-8, as a wire can carry it."""
    return text.encode(errors="backslashreplace").decode()
