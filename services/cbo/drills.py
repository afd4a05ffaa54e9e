"""Which procedures' undos have passed a drill, and for which edition, as the agents of this station wrote it down."""

from collections.abc import Mapping

from chassis.atomic import read_json
from chassis.canonical import Json
from chassis.domains import DomainManifest
from chassis.errors import CalyxError
from chassis.layout import Layout


class Drills:
    """By agent, domain and procedure. A drill counts for the edition of the manifest for which it was done."""

    def __init__(self, layout: Layout, domains: Mapping[str, DomainManifest]) -> None:
        self._layout, self._domains = layout, domains

    def __call__(self, owner: str, domain: str, procedure: str) -> bool:
        """Whether it passed. What nobody wrote down has passed none."""
        found = self._told(owner)
        return found is not None and not self._fault(found, domain, procedure)

    def barred(self, owner: str, domain: str, procedure: str) -> str:
        """Why it may not act at EXECUTE for now, by its agent's own word; empty where the agent says of none."""
        found = self._told(owner)
        return "" if found is None else self._fault(found, domain, procedure)

    def _told(self, owner: str) -> Json | None:
        try:
            found = read_json(self._layout.drilled(owner))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _fault(self, found: Json, domain: str, procedure: str) -> str:
        drill = found.get(f"{domain}/{procedure}")
        if not isinstance(drill, dict) or "failed" not in drill:
            return f"the undo of {procedure} has passed no drill"
        if drill["failed"] is not None:
            return f"the undo of {procedure} did not pass its drill: {drill['failed']}"
        try:
            edition = self._domains[domain].digest
        except (KeyError, CalyxError):
            return f"there is no {domain} for which {procedure} could have been drilled"
        if drill.get("manifest") != edition:
            return f"the undo of {procedure} was drilled for another edition of {domain}, and not since"
        return ""
