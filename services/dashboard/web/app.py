"""The HTTP application: routes, errors as JSON, and the guard around all of it."""

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from chassis.errors import CalyxError, Internal, InvalidInput, NotFound
from services.dashboard.agent_api import agent_api
from services.dashboard.web.context import Context
from services.dashboard.web.events import events
from services.dashboard.web.guarding import Guard
from services.dashboard.web.pages import pages
from services.dashboard.web.problems import problem
from services.dashboard.web.reads import reads
from services.dashboard.web.writes import writes

log = structlog.get_logger(__name__)


def create_app(at: Context) -> ASGIApp:
    """Everything the dashboard serves over HTTP. The interactive docs stay off: they load scripts from elsewhere."""
    app = FastAPI(
        title="Station Calyx", version=at.version, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json"
    )
    for router in (pages(at), reads(at), writes(at), events(at)):
        app.include_router(router)
    if at.agents is not None:
        app.include_router(agent_api(at.agents, at.stopping))

    @app.exception_handler(CalyxError)
    async def known(_request: Request, error: CalyxError) -> JSONResponse:
        return _json(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}" for each in error.errors()
        )
        return _json(InvalidInput(faults.replace("Value error, ", "")))

    @app.exception_handler(HTTPException)
    async def plain_http(_request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return _json(NotFound("there is nothing at this address"))
        body = problem(InvalidInput(str(error.detail)))[1]
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed", route=request.url.path, exc_info=error)
        return _json(Internal("something went wrong inside the dashboard"))

    return Guard(app, at.host_ok, at.count)


def _json(error: CalyxError) -> JSONResponse:
    status, body = problem(error)
    return JSONResponse(body, status_code=status)
