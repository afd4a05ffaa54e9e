"""The page itself, its files, and the login."""

from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, select_autoescape

from chassis.canonical import Json, sha256_hex
from chassis.errors import NotFound, PermissionDenied, Unauthenticated
from services.dashboard.access import Asker, may_write
from services.dashboard.web.context import Context

HERE = Path(__file__).resolve().parents[1]
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_LOGIN_HEADERS = {"referrer-policy": "strict-origin"}
"""Under no-referrer a browser sends `Origin: null` with a form; this lets the origin through, never the token."""


def pages(at: Context) -> APIRouter:
    api = APIRouter(include_in_schema=False)
    templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=select_autoescape())
    files = {path.name: path.read_bytes() for path in sorted((HERE / "static").iterdir()) if path.suffix in _TYPES}
    tag = sha256_hex(b"\0".join(files.values()))[:12]

    @api.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(templates.get_template("page.html").render(station_id=at.station_id, tag=tag))

    @api.get("/static/{seen}/{name}")
    async def static(seen: str, name: str) -> Response:
        if name not in files:
            raise NotFound("there is no such file")
        # Under another tag it is an old page asking: right content, but not to be kept.
        keep = "public, max-age=31536000, immutable" if seen == tag else "no-store"
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers={"cache-control": keep})

    @api.get("/favicon.ico")
    async def favicon() -> Response:
        return Response(files["mark.svg"], media_type="image/svg+xml")

    @api.get("/login")
    async def login_form(token: str = "") -> HTMLResponse:
        """Only asks: a link that a mail or chat program fetches ahead must not use itself up."""
        shown = templates.get_template("login.html").render(token=token[:200], tag=tag, problem="")
        return HTMLResponse(shown, headers=_LOGIN_HEADERS)

    @api.post("/login")
    async def login(request: Request) -> Response:
        origin, host = request.headers.get("origin", ""), request.headers.get("host", "")
        form = parse_qs((await request.body()).decode(errors="replace"))
        try:
            may_write(Asker(by="session"), origin=origin, host=host)
            at.links.use(form.get("token", [""])[0])
        except (Unauthenticated, PermissionDenied) as error:
            await at.run(at.desk.note, "login.refused", why=error.message)
            shown = templates.get_template("login.html").render(token="", tag=tag, problem=error.message)
            return HTMLResponse(shown, status_code=401, headers=_LOGIN_HEADERS)
        await at.run(at.desk.note, "login.granted")
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(
            at.sessions.cookie,
            at.sessions.issue(),
            max_age=int(at.sessions.life.total_seconds()),
            httponly=True,
            samesite="strict",
            secure=at.secure_cookie,
        )
        return answer

    @api.post("/api/logout")
    async def logout(request: Request, response: Response) -> Json:
        at.writer(request)
        response.delete_cookie(at.sessions.cookie, httponly=True, samesite="strict")
        return {"logged_in": False}

    return api
