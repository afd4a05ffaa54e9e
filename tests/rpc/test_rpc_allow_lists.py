"""Who may call what, decided here by hand for every method of every contract.

A new method without a line below fails; so does a list that allows somebody whom nobody decided on.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module

import pytest

from chassis.errors import PermissionDenied
from chassis.identity import CALLERS
from chassis.rpc import auth, probe_servicer
from services.analytics import servicer as analytics
from services.cbo import agent_servicer as agent
from services.cbo import inbox_servicer as inbox
from services.cbo import servicer as cbo
from services.dashboard import servicer as dashboard
from services.governor import servicer as governor
from services.guardian import servicer as guardian
from services.memory import servicer as memory

LETTERS = {
    "c": "cbo",
    "d": "dashboard",
    "o": "operator",
    "m": "memory",
    "g": "governor",
    "u": "guardian",
    "a": "analytics",
    "x": "agent:scout",
}
"""`agent:scout` stands for everybody who joined from outside: lists name the class, `agent`."""
GOVERNED = frozenset({"memory", "governor", "guardian", "analytics"})
PEOPLE = frozenset({"operator", "dashboard"})

DECIDED: Mapping[str, Mapping[str, str]] = {
    "agent": dict.fromkeys(
        ("Join", "Propose", "AwaitTask", "Claim", "Heartbeat", "Check", "Ack", "Nack", "Recall", "Report", "GetStatus"),
        "x",
    )
    | dict.fromkeys(("PutArtifact", "GetArtifact"), "xo"),
    "analytics": {"Analyze": "cdo", "GetTrends": "cdou", "ListCharts": "cdo"},
    "cbo": {
        **dict.fromkeys(
            ("ListObjectives", "GetPulse", "ListPulses", "WatchPulses", "ListTasks", "GetTask", "GetLadder", "GetKpis",
             "GetStation", "ListDomains"),
            "domgua",
        ),
        **dict.fromkeys(
            ("SubmitObjective", "CancelObjective", "RunPulse", "ApproveTask", "RejectTask", "CancelTask", "Undo",
             "SetLevel", "SetKillSwitch", "RequeueTask"),
            "do",
        ),
        "ApproveDomain": "o",
        "RevokeDomain": "o",
        "InviteAgent": "o",
        "RevokeAgent": "o",
        "ListAgents": "do",
        "GetPolicy": "do",
        "TryPolicy": "do",
        "ReplayPulses": "do",
    },
    "dashboard": {"GetOverview": "ocu", "ExportDiagnostics": "o", "IssueLoginLink": "o"},
    "governor": {
        **dict.fromkeys(("GetCapacity", "WatchCapacity", "ListLeases"), "cduao"),
        "Admit": "c",
        **dict.fromkeys(("Throttle", "Sleep", "Resume"), "cdo"),
    },
    "guardian": {
        **dict.fromkeys(("ReportIncident", "ListIncidents", "GetIncident", "ListPlaybooks", "GetHealth"), "cgmado"),
        **dict.fromkeys(("RunPlaybook", "ReleaseQuarantine"), "do"),
    },
    "memory": {
        "RecordExperience": "ca",
        **dict.fromkeys(("Recall", "ListExperiences", "ListStandings"), "cdauo"),
        "Stats": "cdauog",
        **dict.fromkeys(("Feedback", "SetStanding"), "odc"),
        **dict.fromkeys(("Restore", "Export", "Import"), "o"),
        "AmendOutcome": "c",
        **dict.fromkeys(("Compact", "Verify", "Backup", "RebuildIndex"), "ocu"),
    },
    "inbox": {"ListWaiting": "do", "TestNotification": "o"},
    "probe": {"Probe": "co", "Watch": "c", "Compare": "c"},
}  # fmt: skip
"""Contract → method → the callers' letters."""

ALLOWED: Mapping[str, Mapping[str, frozenset[str]]] = {
    "agent": agent.ALLOW,
    "analytics": analytics.ALLOW,
    "cbo": cbo.ALLOW,
    "dashboard": dashboard.ALLOW,
    "governor": governor.ALLOW,
    "guardian": guardian.ALLOW,
    "inbox": inbox.ALLOW,
    "memory": memory.ALLOW,
    "probe": probe_servicer.ALLOW,
}

FOR_PEOPLE_ALONE = (
    ("cbo", "SubmitObjective"), ("cbo", "CancelObjective"), ("cbo", "RunPulse"), ("cbo", "ApproveTask"),
    ("cbo", "RejectTask"), ("cbo", "CancelTask"), ("cbo", "Undo"), ("cbo", "SetLevel"), ("cbo", "SetKillSwitch"),
    ("cbo", "ApproveDomain"), ("cbo", "RevokeDomain"), ("cbo", "InviteAgent"), ("cbo", "ListAgents"),
    ("cbo", "RevokeAgent"), ("cbo", "RequeueTask"), ("guardian", "RunPlaybook"), ("guardian", "ReleaseQuarantine"),
    ("inbox", "TestNotification"),
)  # fmt: skip


def test_everybody_who_can_call_has_a_letter() -> None:
    assert {*CALLERS, "agent:scout"} == set(LETTERS.values())


def contracts() -> Iterator[tuple[str, frozenset[str]]]:
    for name in ALLOWED:
        services = import_module(f"calyx.{name}.v1.{name}_pb2").DESCRIPTOR.services_by_name.values()
        yield name, frozenset(method.name for service in services for method in service.methods)


@pytest.mark.parametrize(("name", "methods"), list(contracts()), ids=list(ALLOWED))
def test_every_method_of_a_contract_is_decided_and_listed(name: str, methods: frozenset[str]) -> None:
    assert set(DECIDED[name]) == methods, "decide in DECIDED who may call a new method"
    assert set(ALLOWED[name]) == methods


CASES = [(name, method, caller) for name in DECIDED for method in DECIDED[name] for caller in LETTERS.values()]


@pytest.mark.parametrize(("name", "method", "caller"), CASES)
def test_a_caller_may_call_what_was_decided_and_nothing_else(name: str, method: str, caller: str) -> None:
    decided = caller in {LETTERS[letter] for letter in DECIDED[name][method]}
    try:
        auth.permit(caller, name, method, ALLOWED[name])
        permitted = True
    except PermissionDenied:
        permitted = False
    assert permitted is decided


@pytest.mark.parametrize(("name", "method"), FOR_PEOPLE_ALONE)
def test_what_a_person_decides_no_service_decides(name: str, method: str) -> None:
    assert ALLOWED[name][method] <= PEOPLE


def test_no_governed_service_changes_how_it_is_governed() -> None:
    assert not governor.ALLOW["Resume"] & GOVERNED
    assert not memory.ALLOW["AmendOutcome"] & GOVERNED
    assert not dashboard.ALLOW["IssueLoginLink"] & GOVERNED


OUTSIDE = [(name, method) for name in DECIDED if name != "agent" for method in DECIDED[name]]


@pytest.mark.parametrize(("name", "method"), OUTSIDE)
@pytest.mark.parametrize("caller", ["agent:scout", "agent:operator", "agent", "agent:", "operator:", ":operator"])
def test_an_outside_agent_calls_nothing_but_the_agent_service(name: str, method: str, caller: str) -> None:
    with pytest.raises(PermissionDenied):
        auth.permit(caller, name, method, ALLOWED[name])


@pytest.mark.parametrize("method", list(DECIDED["agent"]))
@pytest.mark.parametrize("caller", ["agent", "agent:", "operator", "cbo", "scout", ""])
def test_the_agent_service_is_for_outside_agents_alone(method: str, caller: str) -> None:
    if caller == "operator" and method in ("PutArtifact", "GetArtifact"):
        auth.permit(caller, "agent", method, agent.ALLOW)
        return
    with pytest.raises(PermissionDenied):
        auth.permit(caller, "agent", method, agent.ALLOW)
