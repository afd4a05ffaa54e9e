"""`calyx stop` and `calyx resume`: the kill switch."""

from typing import Annotated

import typer

from chassis.errors import InvalidInput, NotFound, Unavailable
from chassis.killswitch import KillSwitch
from cli.output import JsonFlag, emit, note, say
from cli.reach import reach_of

MEANING = "no new task starts; the services keep running (`calyx down` ends them, `calyx resume` goes on)"


def register(app: typer.Typer) -> None:
    app.command("stop")(stop)
    app.command("resume")(resume)


def stop(ctx: typer.Context, why: Annotated[str, typer.Option(help="The reason.")], json: JsonFlag = False) -> None:
    """Engage the kill switch: no new task starts. Example: calyx stop --why "looking at something" """
    from calyx.cbo.v1 import cbo_pb2 as pb

    if not why.strip():
        raise InvalidInput("--why needs a reason; it is kept")
    reach = reach_of(ctx)
    try:
        changed = reach.cbo().SetKillSwitch(pb.SetKillSwitchRequest(engaged=True, why=why)).changed
    except (Unavailable, NotFound):
        # The switch must work while the CBO is down: every worker reads the flag itself.
        if not reach.layout.identity.exists():
            raise
        switch = KillSwitch(reach.layout.kill_switch)
        changed = not switch.engaged()
        switch.engage(why, "operator", reach.clock.now())
        note("the CBO does not answer; the flag was set directly")
    emit(
        {"engaged": True, "changed": changed},
        json,
        lambda v: say(MEANING if v["changed"] else f"already on: {MEANING}"),
    )


def resume(ctx: typer.Context, json: JsonFlag = False) -> None:
    """Release the kill switch; what was held goes on. Example: calyx resume"""
    from calyx.cbo.v1 import cbo_pb2 as pb

    answer = reach_of(ctx).cbo().SetKillSwitch(pb.SetKillSwitchRequest(engaged=False, why="resumed by a person"))
    emit(
        {"engaged": answer.engaged, "changed": answer.changed},
        json,
        lambda v: say("released; what was held goes on" if v["changed"] else "it was not engaged"),
    )
