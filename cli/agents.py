"""`calyx agent`: who may take part from outside. Tokens are shown once and never kept."""

from typing import Annotated, Any

import typer

from cli.output import JsonFlag, at, emit, note, say
from cli.reach import reach_of
from cli.tables import Column, table, tell
from cli.times import ago


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    group.command("invite")(invite)
    group.command("list")(list_)
    group.command("revoke")(revoke)
    app.add_typer(
        group, name="agent", help="Programs from outside that joined, and their tokens. Example: calyx agent list"
    )


def as_json(agent: Any) -> dict[str, Any]:
    return {
        "agent": agent.agent,
        "domains": list(agent.domains),
        "state": "revoked" if agent.HasField("revoked_at") else "joined" if agent.version else "invited",
        "invited_by": agent.invited_by,
        "invited_at": at(agent, "invited_at"),
        "last_seen": at(agent, "last_seen"),
        "version": agent.version,
        "capabilities": list(agent.capabilities),
        "revoked_at": at(agent, "revoked_at"),
        "last_report": agent.last_report,
        "reported_at": at(agent, "reported_at"),
    }


def invite(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The agent's name, as its tasks will name their owner.")],
    domain: Annotated[list[str], typer.Option("--domain", help="A kind of work that it may do; again for more.")],
    renew: Annotated[bool, typer.Option("--renew", help="Give it a new token; the old one ends at once.")] = False,
    json: JsonFlag = False,
) -> None:
    """A token for a program from outside, shown once. Example: calyx agent invite scout --domain sorting"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    answer = reach_of(ctx).cbo().InviteAgent(pb.InviteAgentRequest(agent=name, domains=domain, renew=renew))
    value = {**as_json(answer.agent), "token": answer.token}

    def words(v: dict[str, Any]) -> None:
        note(f"{v['agent']} may work in {', '.join(v['domains'])}. Its token, shown this once:")
        say(v["token"])
        note("Give it as CALYX_AGENT_TOKEN; `calyx agent revoke` ends it.")

    emit(value, json, words)


def list_(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Who was invited, who joined, when each was last heard of. Example: calyx agent list --json"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    reach = reach_of(ctx)
    found = [as_json(each) for each in reach.cbo().ListAgents(pb.ListAgentsRequest()).agents]

    def words(v: dict[str, Any]) -> None:
        def seen(agent: dict[str, Any]) -> str:
            return ago(agent["last_seen"], reach.clock.now()) if agent["last_seen"] else "never"

        table(
            (
                Column("agent"), Column("state", "state"), Column("domains"), Column("last seen", drop=1),
                Column("version", drop=3), Column("invited by", drop=4), Column("last report", "words", drop=2),
            ),
            [
                (
                    a["agent"], a["state"], ", ".join(a["domains"]), seen(a), a["version"] or None,
                    a["invited_by"], a["last_report"],
                )
                for a in v["agents"]
            ],
            "No agents from outside; `calyx agent invite NAME --domain DOMAIN` gives one a token.",
        )  # fmt: skip

    emit({"agents": found}, json, words)


def revoke(
    ctx: typer.Context,
    name: str,
    why: Annotated[str, typer.Option(help="The reason.")] = "",
    json: JsonFlag = False,
) -> None:
    """End an agent's token, from its next call on. Example: calyx agent revoke scout --why "left the team" """
    from calyx.cbo.v1 import cbo_pb2 as pb

    answer = reach_of(ctx).cbo().RevokeAgent(pb.RevokeAgentRequest(agent=name, why=why))
    emit(
        as_json(answer.agent),
        json,
        lambda v: tell(f"{v['agent']}: its token is worth nothing now. What it holds goes back when its lease ends."),
    )
