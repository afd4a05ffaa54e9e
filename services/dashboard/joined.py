"""The section about outside agents: who joined, for what, when last seen. Pure."""

from chassis.canonical import Json
from services.dashboard.view import View

ASKED_EVERY_SECONDS = 3.0
SHOWN = 20


def agents(view: View) -> Json:
    """Good ones first, those seen last on top; how many more there are is said. An old answer shows nobody."""
    standing = view.standing("agents", ASKED_EVERY_SECONDS)
    known = [] if standing["state"] == "unknown" else view.value("agents") or []
    listed = sorted(known, key=lambda each: each["agent"])
    listed.sort(key=lambda each: each["last_seen"] or "", reverse=True)
    listed.sort(key=lambda each: each["revoked_at"] is not None)
    keys = (
        "agent", "domains", "invited_at", "invited_by", "last_seen", "version", "revoked_at", "last_report",
        "reported_at",
    )  # fmt: skip
    return {**standing, "items": [{key: each[key] for key in keys} for each in listed[:SHOWN]], "total": len(known)}
