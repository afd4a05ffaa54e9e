"""What can be read: JSON in the contracts' own field names, charts, and the overview."""

import json
from typing import Any

from fastapi import APIRouter, Query, Request, Response

from chassis.canonical import Json
from services.dashboard.desk import READ_SECONDS
from services.dashboard.web.context import Context

CHART_CSP = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""A chart is a picture: whatever an SVG holds, nothing in it runs."""


def reads(at: Context) -> APIRouter:
    api = APIRouter()
    peers = at.desk.peers

    @api.get("/healthz")
    async def healthz() -> Json:
        return {"ok": True, "service": "dashboard", "version": at.version, "station_id": at.station_id}

    @api.get("/api/session")
    async def session(request: Request) -> Json:
        asker = at.asker(request)
        return {"logged_in": bool(asker.by), "by": asker.by}

    @api.get("/api/overview")
    async def overview() -> Response:
        return Response((await at.board.overview()).body, media_type="application/json")

    @api.get("/api/pulses")
    async def pulses(limit: int = Query(20, ge=1, le=2000)) -> Json:
        return {"pulses": await at.run(peers.cbo.pulses, limit, READ_SECONDS)}

    @api.get("/api/pulses/{pulse_id}")
    async def pulse(pulse_id: str) -> Json:
        found = await at.run(peers.cbo.pulse, pulse_id, READ_SECONDS)
        return {
            "summary": found["summary"],
            "record": _parsed(found["record_json"]),
            "report_markdown": found["report_markdown"],
        }

    @api.get("/api/tasks")
    async def tasks(
        limit: int = Query(50, ge=1, le=500), state: str = "", domain: str = "", waiting: bool = False
    ) -> Json:
        return {"tasks": await at.run(peers.cbo.tasks, limit, state, domain, waiting, READ_SECONDS)}

    @api.get("/api/tasks/{task_id}")
    async def task(task_id: str) -> Json:
        return await at.run(peers.cbo.task, task_id, READ_SECONDS)

    @api.get("/api/ladder")
    async def ladder() -> Json:
        return {"domains": await at.run(peers.cbo.ladder, READ_SECONDS)}

    @api.get("/api/kpis")
    async def kpis() -> Json:
        return await at.run(peers.cbo.kpis, READ_SECONDS)

    @api.get("/api/objectives")
    async def objectives(finished: bool = False) -> Json:
        return {"objectives": await at.run(peers.cbo.objectives, finished, READ_SECONDS)}

    @api.get("/api/incidents")
    async def incidents(limit: int = Query(50, ge=1, le=500)) -> Json:
        return {"incidents": await at.run(peers.guardian.incidents, limit, READ_SECONDS)}

    @api.get("/api/capacity")
    async def capacity() -> Json:
        reading = await at.run(peers.governor.capacity, READ_SECONDS)
        return {**reading, "leases": await at.run(peers.governor.leases, READ_SECONDS)}

    @api.get("/api/trends")
    async def trends() -> Json:
        found = await at.run(peers.analytics.trends, READ_SECONDS)
        return {**found, "charts": await at.run(peers.analytics.charts, READ_SECONDS)}

    @api.get("/api/recall")
    async def recall(q: str = Query(min_length=1, max_length=2000), n: int = Query(5, ge=1, le=50)) -> Json:
        return await at.run(peers.memory.recall, q, n, READ_SECONDS)

    @api.get("/charts/{name}")
    async def chart(name: str) -> Response:
        found = await at.run(at.desk.chart, name)
        return Response(found.data, media_type=found.media_type, headers={"content-security-policy": CHART_CSP})

    @api.get("/api/export")
    async def export(request: Request) -> Response:
        who = at.reader_of_logs(request)
        shown = await at.board.overview()
        made = await at.run(at.desk.export, shown.document, who)
        headers = {"content-disposition": f'attachment; filename="{made.file_name}"'}
        return Response(made.archive, media_type="application/zip", headers=headers)

    return api


def _parsed(text: str) -> Any:
    return json.loads(text) if text else None
