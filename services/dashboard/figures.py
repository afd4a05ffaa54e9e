"""How a number loses its standing with age: ok, then stale (greyed), then unknown (no value)."""

from dataclasses import dataclass
from typing import Any, Literal

from chassis.canonical import Json

State = Literal["ok", "stale", "unknown", "absent"]
_RANK = {"ok": 0, "stale": 1, "unknown": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Ages in seconds from which a figure is stale, and from which it has no value any more."""

    stale_after: float
    unknown_after: float


def terms(interval_seconds: float) -> Terms:
    """Stale after two intervals (at least 10 s, as browsers ask every 2 s); unknown after three times that (≥ 60 s)."""
    stale = max(10.0, 2.0 * interval_seconds)
    return Terms(stale_after=stale, unknown_after=max(60.0, 3.0 * stale))


def state_at(age_seconds: float, limits: Terms) -> State:
    if age_seconds > limits.unknown_after:
        return "unknown"
    return "stale" if age_seconds > limits.stale_after else "ok"


def aged(figure: Json | None, *, since_answer: float, limits: Terms, trouble: str = "") -> Json:
    """The figure as of now: the peer's answer, `since_answer` seconds later.

    `figure` is a plain calyx.common.v1.Figure (None: the peer never gave one); its state can only get worse here.
    `trouble` is why there is no newer answer. An absent thing stays absent: it has no value to grow old.
    """
    if figure is None:
        return make(None, "unknown", note=trouble or "not measured yet", limits=limits)
    unit, note = figure.get("unit") or "", figure.get("note") or ""
    if figure.get("state") == "absent":
        return make(None, "absent", unit=unit, note=note, limits=limits)
    if figure.get("value") is None or figure.get("state") not in ("ok", "stale"):
        return make(None, "unknown", unit=unit, note=note or trouble or "not measured", limits=limits)
    age = max(0.0, float(figure.get("age_seconds") or 0.0)) + since_answer
    said: State = figure["state"]
    by_age = state_at(age, limits)
    state = said if _RANK[said] >= _RANK[by_age] else by_age
    if state != "ok":
        note = trouble or note or f"no newer reading for {age:.0f} s"
    value = None if state == "unknown" else figure["value"]
    return make(value, state, unit=unit, age=age, coverage=figure.get("coverage"), note=note, limits=limits)


def make(
    value: Any,
    state: State,
    *,
    limits: Terms,
    unit: str = "",
    age: float | None = None,
    coverage: float | None = None,
    note: str = "",
) -> Json:
    """A figure as the page gets it. The limits travel along, so that the browser can go on ageing it by itself."""
    return {
        "value": value,
        "state": state,
        "unit": unit,
        "age_seconds": None if age is None else round(age, 3),
        "coverage": coverage,
        "note": note,
        "stale_after_seconds": limits.stale_after,
        "unknown_after_seconds": limits.unknown_after,
    }
