"""The registry: names, tokens, scopes, revocation, signs of life."""

from collections.abc import Callable

import pytest
from agent_station import Wire, domains_with, outside
from calyx.agent.v1 import agent_pb2
from calyx.cbo.v1 import cbo_pb2 as pb
from cbo_station import Station

from chassis.canonical import sha256_hex
from chassis.errors import InvalidInput, NotFound, PermissionDenied, Refused, Unauthenticated
from chassis.identity import CALLERS
from services.cbo.agents import FLUSH_SECONDS


def identify(station: Station, token: str) -> str:
    return station.cbo.agents.identify(sha256_hex(token.encode()))


def test_a_token_is_known_by_its_hash_alone_and_names_its_agent(station: Station) -> None:
    agent, token = station.cbo.agents.invite("scout", ("sorting", "sorting"), False, "operator")
    assert agent.domains == ("sorting",) and len(token) == 43
    assert identify(station, token) == "scout" and identify(station, token + "x") == ""
    station.cbo.close()
    for file in station.layout.state("cbo").iterdir():
        assert token.encode() not in file.read_bytes()
    assert token not in station.layout.audit("cbo").read_text()


def test_agents_and_revocations_outlive_a_restart(station: Station) -> None:
    _, good = station.cbo.agents.invite("scout", ("sorting",), False, "operator")
    _, bad = station.cbo.agents.invite("rover", ("sorting",), False, "operator")
    station.cbo.agents.revoke("rover", "left", "operator")
    station.cbo.close()
    station.open()
    assert identify(station, good) == "scout" and identify(station, bad) == ""
    assert [each.name for each in station.cbo.agents.all()] == ["rover", "scout"]


def test_renewing_gives_a_new_token_and_new_domains_and_ends_the_old_one(station: Station) -> None:
    agents = station.cbo.agents
    _, old = agents.invite("scout", ("sorting",), False, "operator")
    with pytest.raises(Refused, match="--renew"):
        agents.invite("scout", ("sorting",), False, "operator")
    agents.revoke("scout", "", "operator")
    agent, new = agents.invite("scout", ("asking",), True, "operator")
    assert identify(station, old) == "" and identify(station, new) == "scout"
    assert agent.domains == ("asking",) and agent.revoked_at is None


@pytest.mark.parametrize("name", [*CALLERS, "exchange", "inbox", "agent"])
def test_no_agent_takes_a_name_of_the_stations_own(station: Station, name: str) -> None:
    with pytest.raises(InvalidInput, match="station's own"):
        station.cbo.agents.invite(name, ("sorting",), False, "operator")


@pytest.mark.parametrize("name", ["", "Scout", "a b", "../up", "-x", "x" * 65, "a:b"])
def test_a_name_that_no_task_could_name_is_refused(station: Station, name: str) -> None:
    with pytest.raises(InvalidInput):
        station.cbo.agents.invite(name, ("sorting",), False, "operator")


@pytest.mark.parametrize("domains", [(), ("../x",), ("A",), tuple(f"d{n}" for n in range(33))])
def test_a_token_is_for_some_domains_and_not_for_any(station: Station, domains: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        station.cbo.agents.invite("scout", domains, False, "operator")


def test_every_invitation_and_revocation_is_in_the_audit_log_once(station: Station) -> None:
    station.cbo.agents.invite("scout", ("sorting",), False, "operator")
    station.cbo.agents.revoke("scout", "left", "operator")
    station.cbo.agents.revoke("scout", "again", "operator")
    with pytest.raises(NotFound):
        station.cbo.agents.revoke("nobody", "", "operator")
    assert [(each["agent"], each["by"]) for each in station.audit("agent.invited")] == [("scout", "operator")]
    assert [each["why"] for each in station.audit("agent.revoked")] == ["left"]


def test_what_an_agent_says_of_itself_is_kept_and_bounded(station: Station) -> None:
    agents = station.cbo.agents
    agents.invite("scout", ("sorting",), False, "operator")
    agents.joined("scout", "1.0", ("sorts",))
    agents.joined("scout", "1.0", ("sorts",))
    assert len(station.audit("agent.joined")) == 1
    for version, capabilities in (("v" * 121, ()), ("1", ("c",) * 33), ("1", ("c" * 201,))):
        with pytest.raises(InvalidInput):
            agents.joined("scout", version, capabilities)


def test_a_sign_of_life_reaches_the_disk_now_and_then(station: Station) -> None:
    station.cbo.agents.invite("scout", ("sorting",), False, "operator")
    station.clock.advance(FLUSH_SECONDS)
    seen = station.cbo.agents.seen("scout").last_seen
    station.cbo.reap()
    station.cbo.close()
    station.open()
    assert station.cbo.agents.all()[0].last_seen == seen


def test_a_call_between_the_gate_and_a_revocation_is_refused(station: Station) -> None:
    station.cbo.agents.invite("scout", ("sorting",), False, "operator")
    station.cbo.agents.revoke("scout", "", "operator")
    with pytest.raises(Unauthenticated):
        station.cbo.joining.status("scout")


def test_a_person_invites_lists_and_revokes_and_nobody_else_does(new_station: Callable[..., Station]) -> None:
    wire = Wire(new_station(domains=domains_with(outside("sorting", "scout"))))
    try:
        operator, dashboard = wire.person(), wire.person("dashboard")
        token = operator.InviteAgent(pb.InviteAgentRequest(agent="scout", domains=["sorting"])).token
        wire.tokens["scout"] = token
        agent = wire.agent()
        agent.Join(agent_pb2.JoinRequest(version="2", capabilities=["sorts"]))
        shown = dashboard.ListAgents(pb.ListAgentsRequest()).agents[0]
        assert (shown.agent, shown.version, list(shown.capabilities)) == ("scout", "2", ["sorts"])
        assert shown.HasField("last_seen") and not shown.HasField("revoked_at") and shown.invited_by == "operator"
        for stub in (dashboard, wire.person("governor")):
            with pytest.raises(PermissionDenied):
                stub.InviteAgent(pb.InviteAgentRequest(agent="rover", domains=["sorting"]))
        assert operator.RevokeAgent(pb.RevokeAgentRequest(agent="scout")).agent.HasField("revoked_at")
    finally:
        wire.close()
