"""The one sentence at the top of the page."""

from chassis.canonical import Json
from chassis.layout import SERVICES
from services.dashboard.words import count, listed, name_of


def headline(document: Json) -> Json:
    """{tone, text, detail}: the most urgent thing first. tone: stopped, bad, attention, waiting, ok."""
    silent = [peer for peer, reach in document["peers"].items() if reach["asked"] and not reach["answers"]]
    waiting = len(document["inbox"]["items"])
    inbox = f"{count(waiting, 'plan waits', 'plans wait')} for your answer." if waiting else "Nothing waits for you."
    if document["kill_switch"]["engaged"]:
        why = document["kill_switch"]["why"]
        return _say("stopped", "Stopped by a person: nothing new takes effect.", f"Reason: {why}" if why else "")
    faults = document["alerts"]["open"]
    if faults:
        worst = "bad" if any(fault["class"] == "critical" for fault in faults) else "attention"
        targets = listed(sorted({name_of(fault["target"]) for fault in faults}))
        return _say(worst, f"{count(len(faults), 'fault is', 'faults are')} open: {targets}.", inbox)
    if silent:
        names = listed([name_of(peer) for peer in silent])
        verb = "does" if len(silent) == 1 else "do"
        tone = "bad" if len(silent) > len(SERVICES) / 2 else "attention"
        whose = "its" if len(silent) == 1 else "their"
        return _say(tone, f"The {names} {verb} not answer; {whose} figures grow old.", inbox)
    down = [each["service"] for each in document["services"]["items"] if each["state"] in ("down", "quarantined")]
    if down:
        return _say("attention", f"Not up: {listed([name_of(each) for each in down])}.", inbox)
    station = document["station"]
    if station["overdue"]:
        return _say("attention", "The check-in is overdue: the overseer (CBO) answers but does not pulse.", inbox)
    if station["state"] == "unknown":
        return _say("waiting", "Waiting for the first answers.", "")
    if station["last_pulse"] is None:
        return _say("waiting", "Starting: the first check-in (Bridge Pulse) comes soon.", "")
    unknown = [each["service"] for each in document["services"]["items"] if each["state"] == "unknown"]
    if unknown:
        return _say("attention", f"Not known to be up: {listed([name_of(each) for each in unknown])}.", inbox)
    unsure = [each for each in document["services"]["items"] if each["state"] != "up"]
    if unsure:
        names = listed([f"{name_of(each['service'])} {each['state']}" for each in unsure])
        return _say("ok", f"The station runs ({names}).", inbox)
    return _say("attention" if waiting else "ok", f"All {_number(len(SERVICES))} services answer. {inbox}", "")


def _say(tone: str, text: str, detail: str) -> Json:
    return {"tone": tone, "text": text, "detail": detail}


def _number(number: int) -> str:
    return {6: "six"}.get(number, str(number))
