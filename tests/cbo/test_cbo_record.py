"""What the record says of what nobody could tell: null and `Unknown`, never an empty list or 0."""

from cbo_station import Station

from services.cbo.report import report


def test_what_a_silent_guardian_could_not_say_is_null_and_not_nothing(station: Station) -> None:
    station.guardian.down = station.governor.down = True
    record = station.pulse()
    assert (record["reflect"]["incidents"], record["reflect"]["services"], record["reflect"]["intents"]) == (None,) * 3
    assert station.cbo.pulses(1)[0]["incidents"] is None
    assert "Unknown: the guardian did not answer." in report(record)


def test_an_asked_guardian_without_incidents_says_none(station: Station) -> None:
    record = station.pulse()
    assert record["reflect"]["incidents"] == []
    assert "## Incidents" not in report(record)


def test_the_report_rounds_no_coverage_to_none_and_counts_in_whole_numbers(station: Station) -> None:
    station.pulse(3)
    page = report(station.pulse())
    assert "| Policy violations | 0 | 0 | < 1% | insufficient data |" in page


def test_the_reports_services_carry_the_age_of_their_probe(station: Station) -> None:
    record = station.pulse()
    first = record["reflect"]["services"][0]
    assert f"{first['service']} {first['state']} ({first['age_seconds']:.0f} s ago)" in report(record)
