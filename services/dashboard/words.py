"""Plain words for people; the term follows in brackets where the page first uses it."""

LEVELS = ("OBSERVE", "SUGGEST", "GUIDE", "EXECUTE")
LEVEL_WORDS = {"OBSERVE": "Watch", "SUGGEST": "Suggest", "GUIDE": "Rehearse and ask", "EXECUTE": "Act"}
LEVEL_MEANINGS = {
    "OBSERVE": "plans are written down only",
    "SUGGEST": "plans are proposed to you; nothing runs",
    "GUIDE": "plans are tried on a copy, checked, and you may approve them",
    "EXECUTE": "runs with effects, within its limits, and can be undone",
}
SERVICE_WORDS = {
    "memory": "memory",
    "governor": "governor (resources)",
    "guardian": "guardian (healing)",
    "cbo": "overseer (CBO)",
    "analytics": "analyst (Cheetah Agent)",
    "dashboard": "this page (dashboard)",
}
KPI_WORDS = {
    "uptime": "All services up",
    "mean_tes": "Mean run score (TES)",
    "policy_violations": "Rules broken",
    "confidence_delta": "Confidence gained a day",
    "overrides": "Times you had to step in",
}
KPI_TARGETS = {
    "uptime": "≥ 95 %",
    "mean_tes": "≥ 96",
    "policy_violations": "0",
    "confidence_delta": "≥ +1 pp",
    "overrides": "≤ 1",
}


def name_of(service: str) -> str:
    """The service in a sentence, without the bracket."""
    return SERVICE_WORDS.get(service, service).split(" (")[0]


def count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def listed(names: list[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
